"""A run from its names to its answer: preparation, plan, search, reference, test."""
