"""Features of the frozen backbone: the cache that keeps them, and the batches that are read from it."""
