"""Runs logged to experiment trackers: TensorBoard, MLflow, Weights & Biases."""
