"""Kinds of task, with their targets, losses and metrics."""
