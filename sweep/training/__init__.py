"""How a stack of lanes trains: the engine, its optimizers, and the plain loop it is compared with."""
