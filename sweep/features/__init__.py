"""What is kept of a forward pass of the backbone: the feature cache, and the batches read from it."""
