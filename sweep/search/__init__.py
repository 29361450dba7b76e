"""How trials are chosen, trained side by side, and stopped."""
