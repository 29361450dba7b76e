"""A parallel multi-objective sweep engine: one frozen backbone forward feeds many side-networks."""
