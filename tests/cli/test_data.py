"""`sweep data` lists the data sets that have a name."""

import sys
from pathlib import Path

import pytest

import sweep.cli
from sweep.data import DATA_SETS
from sweep.data.suites import PACKAGED_SUITES


def test_the_list_has_every_set_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["sweep", "data"])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    for name, packaged in DATA_SETS.items():
        assert f" {packaged.n_classes} │ {' / '.join(map(str, packaged.sizes))} " in rows[name]
    assert "fetched with pip" in rows["mnist"]
    assert " here " in rows["count"]
    for name in PACKAGED_SUITES:
        assert f"{name}, several at once:" in printed
    assert not (tmp_path / "cache").exists()
