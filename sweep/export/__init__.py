"""From a run to a model that loads anywhere."""
