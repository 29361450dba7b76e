"""Show a run: the HTML report with figures, tables and images, plots for notebooks, and the dashboard's note."""
