"""Output for people: progress and lanes in a terminal."""
