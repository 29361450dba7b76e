"""Train a recorded trial again, alone, and compare it with its record."""
