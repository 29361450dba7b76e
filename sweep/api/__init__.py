"""The functions and classes for Python programs and notebooks."""
