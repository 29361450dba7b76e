"""Output in any encoding. Nothing that sweep prints can end a run."""

import io
import sys
from pathlib import Path

import pytest

import sweep.cli
from sweep.terminal.console import REPLACING, SafeConsole


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "0.8 ± 0.1 é ж"),
        ("latin-1", "0.8 ± 0.1 é \\u0436"),
        ("ascii", "0.8 +/- 0.1 \\xe9 \\u0436"),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced(encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    SafeConsole(file=stream, width=80).print("0.8 ± 0.1 é ж", highlight=False)
    assert raw.getvalue().decode(encoding).strip() == shown


def test_undecodable_names_are_escaped() -> None:
    assert "a\udcff".encode("utf-8", REPLACING) == b"a\\udcff"


@pytest.mark.parametrize("options", [(), ("--format", "csv")])
def test_results_are_printed_in_ascii(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    monkeypatch.setattr(sys, "argv", ["sweep", "results", str(finished_run), *options])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    assert not ended.value.code
    assert ("+/-" in raw.getvalue().decode("ascii")) == (not options)
