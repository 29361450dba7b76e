"""Training a stack of lanes: the engine, its optimizers, and the plain loop that tests compare it with."""
