"""`sweep dashboard`: which studies it shows, and on which address it listens."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna_dashboard import get_note, save_note

import sweep
import sweep.cli
from sweep.records.folder import RunFolder
from sweep.search.optuna_storage import create_optuna_study, load_optuna_study
from sweep.search.storage_url import shown_url
from sweep.study.objectives import Objectives

Cli = Callable[..., tuple[int, str]]


@pytest.fixture
def stores() -> list[FileSystemArtifactStore | None]:
    """The artifact stores that were passed to the server."""
    return []


@pytest.fixture
def served(
    monkeypatch: pytest.MonkeyPatch, stores: list[FileSystemArtifactStore | None]
) -> list[tuple[list[str], str, int]]:
    """Replace the server; return a list of the studies, host and port of each call."""
    calls: list[tuple[list[str], str, int]] = []

    def serve(
        storage: optuna.storages.BaseStorage, host: str, port: int, artifact_store: FileSystemArtifactStore | None
    ) -> None:
        if host == "nowhere":
            raise OSError(-2, "Name or service not known")
        stores.append(artifact_store)
        calls.append(([study.study_name for study in storage.get_all_studies()], host, port))

    monkeypatch.setattr("optuna_dashboard.run_server", serve)
    return calls


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Run the command in this process, in an empty folder. Return its exit code and its standard error."""
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
        storage, folder, objectives=objectives, sampler=optuna.samplers.RandomSampler(seed=0), goes_on=False
    )
    folder.write_json(folder.config_path, {"storage": shown_url(storage) if storage else None})
    return folder


Served = list[tuple[list[str], str, int]]


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("localhost", False), ("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("gpu-box", True), ("", True)],
)
def test_listening_beyond_this_machine_is_reported(cli: Cli, served: Served, host: str, is_open: bool) -> None:
    made_run(Path("run"), None)
    code, stderr = cli("run", "--host", host, "--port", "1234")
    assert (code, served) == (0, [(["run"], host, 1234)])
    assert ("warning: anyone who can reach" in stderr) == is_open


def test_localhost_unless_told_otherwise(cli: Cli, served: Served) -> None:
    made_run(Path("run"), None)
    assert cli("run")[0] == 0
    assert served == [(["run"], "localhost", 8080)]


def test_an_unavailable_address_is_refused(cli: Cli, served: Served) -> None:
    made_run(Path("run"), None)
    code, stderr = cli("run", "--host", "nowhere")
    assert (code, "cannot listen on nowhere, port 8080: Name or service not known; choose" in stderr) == (2, True)


def test_a_storage_named_by_a_run_folder_is_opened_only_when_given(cli: Cli, served: Served) -> None:
    """A run folder may come from somebody else, and its URL may point to the user's own database or to any host."""
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


def study_of(run: Path) -> optuna.Study:
    return load_optuna_study(RunFolder(run), None, "")


def artifacts_of(run: Path) -> dict[str, bytes]:
    """The contents of a run's artifacts, by file name."""
    metas = get_all_artifact_meta(study_of(run))
    return {meta.filename: (run / "artifacts" / meta.artifact_id).read_bytes() for meta in metas}


def test_a_run_that_ended_is_annotated_once(cli: Cli, served: Served, finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert cli("run")[0] == 0
    summary = sweep.load_results(run).summary
    note = get_note(study_of(run))
    assert f"winner, trial {summary['winner']['trial']}, {summary['n_test_images']} test images" in note
    assert f"{summary['winner']['test']['top1']:.3f} ±" in note
    assert f"{summary['linear_probe']['val']['nll']:.3f}" in note
    files = artifacts_of(run)
    assert files[f"winner-trial-{summary['winner']['trial']}.safetensors"] == (run / "winner.safetensors").read_bytes()
    assert files["trials.csv"].count(b"\n") == 5
    assert set(files) >= {"config.json", "summary.json"}

    save_note(study_of(run), "mine")
    assert cli("run")[0] == 0
    assert get_note(study_of(run)) == "mine"
    assert len(artifacts_of(run)) == len(list((run / "artifacts").iterdir())) == 4


def test_trials_have_the_attributes_that_people_look_for(finished_run: Path) -> None:
    for trial in study_of(finished_run).get_trials():
        assert {f"sweep:{name}" for name in ("seed", "lane", "seconds", "trainable_parameters", "val_nll")} <= set(
            trial.user_attrs
        )


def test_an_artifact_that_a_browser_would_run_is_not_served(
    cli: Cli, served: Served, stores: list[FileSystemArtifactStore | None], tmp_path: Path
) -> None:
    """A run folder may come from somebody else, so the file type in its journal cannot be trusted."""
    folder = made_run(Path("run"), None)
    assert cli("run")[0] == 0
    (tmp_path / "page.csv").write_text("<script>")
    store = FileSystemArtifactStore(folder.path / "artifacts")
    upload_artifact(study_or_trial=study_of(folder.path), file_path=str(tmp_path / "page.csv"), artifact_store=store)
    assert cli("run")[0] == 0
    study = study_of(folder.path)
    for described in ('{"mimetype": "text/html", "filename": "\x1b[2J"}', "{", "[]"):
        study._storage.set_study_system_attr(study._study_id, "artifacts:1", described)
        code, stderr = cli("run")
        assert (code, "artifacts are not shown, because a browser might execute" in stderr) == (0, True)
        assert "\x1b" not in stderr
    assert [store is not None for store in stores] == [True, True, False, False, False]
