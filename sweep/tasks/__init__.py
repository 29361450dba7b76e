"""What is asked of an input: kinds of task, targets, losses, metrics."""
