"""The consoles of the command: results go to standard output, everything else to standard error."""

from rich.console import Console

PIPED_WIDTH = 140
"""Columns of the output if it does not go to a terminal."""

stdout = Console()
stderr = Console(stderr=True)
for console in (stdout, stderr):
    if not console.is_terminal:
        console.width = PIPED_WIDTH


def printable(text: str) -> str:
    """Replace control characters, so that a file name or a table from elsewhere cannot control the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
