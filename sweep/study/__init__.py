"""Declaring a study, and finding it by name or path."""
