"""Turn a run into a model that loads anywhere."""
