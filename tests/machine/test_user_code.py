"""A user's file runs as a script would: it imports modules beside it, has dataclasses, and an edit takes effect."""

import sys
from pathlib import Path

import pytest

from sweep.errors import UsageError
from sweep.machine.user_code import execute


def test_modules_beside_a_file_are_imported_again_every_time(tmp_path: Path) -> None:
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper_of_a_study.py").write_text(f"VALUE = {value}\n")
        (tmp_path / folder / "mine.py").write_text("from helper_of_a_study import VALUE\n")
    assert [execute(tmp_path / name / "mine.py", kind="study").VALUE for name in ("one", "two", "one")] == [1, 2, 1]
    (tmp_path / "one" / "helper_of_a_study.py").write_text("VALUE = 'edited'\n")
    assert execute(tmp_path / "one" / "mine.py", kind="study").VALUE == "edited"
    assert sys.path[0] != str(tmp_path / "one")


def test_a_dataclass_under_postponed_annotations(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "@dataclass\nclass Space:\n    kind: ClassVar[str] = 'a'\n    size: int = 3\n"
    )
    assert execute(path, kind="study").Space().size == 3


def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("import no_such_module_anywhere\n")
    with pytest.raises(UsageError, match=r"does not run: ModuleNotFoundError: No module named .*mine\.py, line 1"):
        execute(path, kind="study")
