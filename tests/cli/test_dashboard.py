"""`sweep dashboard`: what it opens, and to whom."""

import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

import sweep.cli
from sweep.objectives import Objectives
from sweep.run_folder import RunFolder
from sweep.storage import create_optuna_study, shown_url

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str, int]]:
    """Studies, host and port of what was served; a stand-in for the server."""
    calls: list[tuple[list[str], str, int]] = []

    def serve(storage: optuna.storages.BaseStorage, host: str, port: int) -> None:
        if host == "nowhere":
            raise OSError(-2, "Name or service not known")
        calls.append(([study.study_name for study in storage.get_all_studies()], host, port))

    monkeypatch.setattr("optuna_dashboard.run_server", serve)
    return calls


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Calls the command in process in an empty folder; returns exit code and what stood on standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", "dashboard", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, " ".join(capsys.readouterr().err.split())

    return call


def made_run(path: Path, storage: str | None) -> RunFolder:
    folder = RunFolder.create(path)
    objectives = Objectives({"val_top1": "maximize"})
    create_optuna_study(
        path.name, storage, folder, objectives=objectives, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    folder.write_json(folder.config_path, {"storage": shown_url(storage) if storage else None})
    return folder


Served = list[tuple[list[str], str, int]]


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("localhost", False), ("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("gpu-box", True), ("", True)],
)
def test_listening_beyond_this_machine_is_said(cli: Cli, served: Served, host: str, is_open: bool) -> None:
    made_run(Path("run"), None)
    code, stderr = cli("run", "--host", host, "--port", "1234")
    assert (code, served) == (0, [(["run"], host, 1234)])
    assert ("warning: whoever can reach" in stderr) == is_open


def test_localhost_unless_told_otherwise(cli: Cli, served: Served) -> None:
    made_run(Path("run"), None)
    assert cli("run")[0] == 0
    assert served == [(["run"], "localhost", 8080)]


def test_an_address_that_cannot_be_had(cli: Cli, served: Served) -> None:
    made_run(Path("run"), None)
    code, stderr = cli("run", "--host", "nowhere")
    assert (code, "cannot listen on nowhere, port 8080: Name or service not known; give" in stderr) == (2, True)


def test_a_storage_named_by_a_run_folder_is_opened_only_when_given(cli: Cli, served: Served) -> None:
    """The folder may be a stranger's, and the URL lead to the user's own database or to any host."""
    made_run(Path("run"), "sqlite:///trials.db")
    code, stderr = cli("run")
    assert (code, served) == (2, [])
    assert "sqlite:///trials.db" in stderr
    assert "sweep dashboard run --storage URL" in stderr
    assert cli("run", "--storage", "sqlite:///trials.db")[0] == 0
    assert served == [(["run"], "localhost", 8080)]


def test_journals_that_are_missing_or_damaged(cli: Cli, served: Served) -> None:
    journal = made_run(Path("run"), None).journal_path
    journal.write_bytes(b"{}\n" + journal.read_bytes())
    code, stderr = cli("run")
    assert (code, "run/optuna.journal is damaged" in stderr) == (1, True)
    journal.unlink()
    code, stderr = cli("run")
    assert (code, "run/optuna.journal is missing" in stderr) == (1, True)
    assert not journal.exists()
    assert not served


def test_a_password_is_neither_recorded_nor_printed(cli: Cli, served: Served) -> None:
    assert shown_url("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert shown_url("no url") == "no url"
    made_run(Path("run"), None)
    code, stderr = cli("run", "--storage", "nonsense://me:secret@host/db")
    assert (code, "--storage nonsense://me:***@host/db cannot be opened" in stderr) == (2, True)
    assert "secret" not in stderr
