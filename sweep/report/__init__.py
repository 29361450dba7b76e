"""A run as one page: figures, numbers and images in a single HTML file."""
