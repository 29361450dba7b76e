"""Where the command writes: answers to standard output, everything else to standard error."""

from rich.console import Console

PIPED_WIDTH = 140
"""Columns where there is no terminal to ask."""

stdout = Console()
stderr = Console(stderr=True)
for console in (stdout, stderr):
    if not console.is_terminal:
        console.width = PIPED_WIDTH


def printable(text: str) -> str:
    """`text` without control characters: a file's name or a stranger's table must not steer the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
