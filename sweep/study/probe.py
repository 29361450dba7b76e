"""What every study shares about the linear probe that its trials are compared with."""

EPOCHS_FACTOR = 4
"""A probe trains for this many times the study's epochs: it costs almost nothing, so a short run never holds it
back."""
