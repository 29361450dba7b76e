"""Where the command writes: answers to standard output, everything else to standard error."""

from rich.console import Console

PIPED_WIDTH = 140
"""Columns where there is no terminal to ask."""

stdout = Console()
stderr = Console(stderr=True)
for console in (stdout, stderr):
    if not console.is_terminal:
        console.width = PIPED_WIDTH
