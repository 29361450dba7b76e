"""What a study declares, and how it is found."""
