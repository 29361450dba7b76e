"""A constant of the linear probe that every study's trials are compared with."""

EPOCHS_FACTOR = 4
"""The probe trains for this many times the study's epochs. It costs almost nothing, and so a study with few epochs does
not make the probe look weak."""
