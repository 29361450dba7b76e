"""`sweep bench`: what a configuration costs here, by every way of training it, measured in one process."""
