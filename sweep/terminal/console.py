"""The consoles of the command: results go to standard output, everything else to standard error."""

import codecs
import io
import sys
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REPLACING = "sweep.replace"
"""The name of what Python does with characters that an encoding lacks, see `_replaced`."""

PIPED_WIDTH = 140
"""Columns of the output if it does not go to a terminal."""

ASCII = {"±": "+/-", "×": "x", "−": "-", "–": "-", "…": "...", "²": "^2", "Σ": "sum", "→": "->"}
"""Replacements of sweep's own characters for terminals and pipes that cannot show them."""


class SafeConsole(Console):
    """A console that never fails because of a character."""

    @property
    def file(self) -> IO[str]:
        """Where it writes."""
        return cast(IO[str], _Written(super().file))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file


class _Written:
    """A text stream that replaces characters that its encoding lacks, instead of failing.

    Args:
        file: The stream.
    """

    def __init__(self, file: IO[str]):
        self._file = file

    def write(self, text: str) -> int:
        """Write what the stream can hold of a text."""
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        written: int = self._file.write(text.encode(encoding, REPLACING).decode(encoding))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """The replacement of characters that an encoding lacks: from `ASCII`, or an escape with the character's number."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    escapes = (ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(escapes), error.end


codecs.register_error(REPLACING, _replaced)


def never_fail_to_print() -> None:
    """Make standard output and error replace characters that they lack, for text that no console here prints."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=REPLACING)


stdout = SafeConsole()
stderr = SafeConsole(stderr=True)
for console in (stdout, stderr):
    if not console.is_terminal:
        console.width = PIPED_WIDTH


def progress_bar() -> Progress:
    """A bar on standard error that counts items and disappears at its end; it is disabled without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)


def printable(text: str) -> str:
    """Replace control characters, so that a file name or a table from elsewhere cannot control the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
