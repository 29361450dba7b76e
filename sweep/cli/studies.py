"""`sweep studies`: the studies that come by name."""

import ast
from pathlib import Path

from rich.table import Table

from sweep.terminal.console import stdout


def studies() -> None:
    """List the studies that `--study` takes by name, with the question that each answers.

    A study of your own is a Python file: docs/own-study.md.
    """
    table = Table(title="studies by name", title_justify="left")
    table.add_column("--study", no_wrap=True)
    table.add_column("what it asks")
    for name, question in questions().items():
        table.add_row(name, question)
    stdout.print(table, highlight=False)
    stdout.print("your own: sweep run --study ./mine.py (docs/own-study.md)", highlight=False, markup=False)


def questions() -> dict[str, str]:
    """The first line of every study's docstring, by name; nothing is executed."""
    import studies as package
    from sweep.study.finding import study_names

    folder = Path(next(iter(package.__path__)))
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in study_names()}
    return {name: (ast.get_docstring(ast.parse(text)) or "").split("\n")[0] for name, text in sources.items()}
