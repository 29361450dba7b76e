"""A user's file runs as a script would: it imports modules beside it, has dataclasses, and an edit takes effect."""

import sys
from functools import partial
from pathlib import Path

import pytest

from sweep.errors import UsageError
from sweep.machine.user_code import execute, name_of, source_digest


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


NETWORKS = {
    "a function": "def made():\n    pass",
    "a class": "class Net:\n    def __init__(self):\n        pass\nmade = Net",
    "a subclass": "from fractions import Fraction\nclass Net(Fraction):\n    pass\nmade = Net",
    "a partial": "from functools import partial\ndef net(n):\n    pass\nmade = partial(net, 3)",
    "a partial of a library": "from functools import partial\nfrom fractions import Fraction\nmade = partial(Fraction)",
    "a callable object": "class Net:\n    def __call__(self):\n        pass\nmade = Net()",
    "a class of a library": "from fractions import Fraction as made",
}


@pytest.mark.parametrize("what", NETWORKS)
def test_the_digest_follows_the_users_file(what: str, tmp_path: Path) -> None:
    take = "\nfrom sweep.machine.user_code import source_digest\ndigest = source_digest(made, 'made')\n"
    path = tmp_path / "net.py"

    def digest_of(source: str) -> str:
        path.write_text(source + take)
        digest: str = execute(path, kind="test").digest
        return digest

    first = digest_of(NETWORKS[what])
    assert digest_of(NETWORKS[what]) == first
    assert digest_of(NETWORKS[what] + "\n# edited") != first


def test_the_digest_follows_the_users_file_if_a_library_lies_below_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "library_of_a_test.py").write_text("class Net:\n    pass\n")
    monkeypatch.syspath_prepend(str(installed))
    digests = []
    for n_layers in (1, 2):
        (tmp_path / "net.py").write_text(
            "from functools import partial\nfrom library_of_a_test import Net\n"
            "from sweep.machine.user_code import source_digest\n"
            f"digest = source_digest(partial(Net, {n_layers}), 'made')\n"
        )
        digests.append(execute(tmp_path / "net.py", kind="test").digest)
    assert digests[0] != digests[1]


def test_a_partial_has_the_name_of_what_it_calls() -> None:
    assert name_of(partial(partial(digest_of_nothing, 1), 2)) == "digest_of_nothing"
    assert source_digest(partial(print), "a") != source_digest(partial(print), "b")  # a built-in has no file


def digest_of_nothing(one: int, two: int) -> None:
    """Something that a partial can call."""
