"""`sweep bench`: measure what a configuration costs on this machine, when it is trained in different ways."""
