"""The files and tables that a run writes, and how they are read."""
