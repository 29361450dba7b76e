"""Add a run's summary to the dashboard as a note, and its files as artifacts."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import BaseStorage
from optuna_dashboard import get_note, save_note
from optuna_dashboard.artifact import get_artifact_path

from sweep.errors import SweepError
from sweep.export.markdown import command_line, markdown_text, metric_head, metric_row, number_text, settings_text
from sweep.export.selection import hyperparameters_of
from sweep.records.entries import require_config, require_summary
from sweep.records.findings import findings
from sweep.records.folder import RunFolder
from sweep.records.ranked_on import RankedOn
from sweep.records.results import Results
from sweep.records.tested import said_of_test, was_retrained, was_tested
from sweep.tasks.inputs import kind_of

ARTIFACTS = "artifacts"
"""The folder of Optuna's artifact store, inside the run folder."""

HARMLESS = ("application/json", "application/octet-stream", "image/jpeg", "image/png", "text/csv", "text/plain")
"""Types of artifacts that a browser shows or saves, and never executes."""

TOP = 5
"""How many trials the note lists."""


def open_artifacts(folder: RunFolder) -> FileSystemArtifactStore:
    """Open the run's artifact store, and create its folder if it is missing.

    Raises:
        SweepError: The folder cannot be created.
    """
    path = folder.path / ARTIFACTS
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise SweepError(f"cannot create the folder {path}: {error.strerror}") from error
    return FileSystemArtifactStore(path)


def unsafe_artifact(storage: BaseStorage) -> str | None:
    """Return an artifact that a browser might execute, if there is one. The server trusts the type in the storage."""
    attributes = []
    for study in storage.get_all_studies():
        attributes.append(storage.get_study_system_attrs(study._study_id))
        attributes += [trial._system_attrs for trial in storage.get_all_trials(study._study_id, deepcopy=False)]
    for of_owner in attributes:
        for name, value in of_owner.items():
            if name.startswith(("artifacts:", "dashboard:artifacts:")) and _type_of(value) not in HARMLESS:
                return f"the artifact {value!r}"
    return None


def _type_of(described: object) -> str | None:
    """Return the type in an artifact's description, or None if the description is not of Optuna's form."""
    try:
        meta = json.loads(str(described))
    except (ValueError, RecursionError):
        return None
    return str(meta.get("mimetype")) if isinstance(meta, dict) else None


def annotate(study: optuna.Study, results: Results, folder: RunFolder, store: FileSystemArtifactStore) -> None:
    """Add the note and the artifacts to the study of a run that has ended, unless it has a note already.

    Args:
        study: The run's study, in its storage.
        results: The run's tables.
        folder: The run's folder.
        store: The store for the artifacts.

    Raises:
        SweepError: The run's record is damaged.
    """
    if get_note(study):
        return
    require_summary(folder, results.summary, results.kind, results.kind.shown)
    require_config(folder, results.config)
    with tempfile.TemporaryDirectory() as name:
        links = {}
        for path in _files(results, folder, Path(name)):
            identity = upload_artifact(study_or_trial=study, file_path=str(path), artifact_store=store)
            links[path.name] = get_artifact_path(study, identity)
    save_note(study, study_note(results, links))


def _files(results: Results, folder: RunFolder, work: Path) -> list[Path]:
    """Return the files to attach, with names that are clear outside the run folder too."""
    winner = work / f"winner-trial-{results.summary['winner']['trial']}.safetensors"
    shutil.copy(folder.winner_path, winner)
    trials = work / "trials.csv"
    results.trials.to_csv(trials, index=False)
    again = [folder.retrained_path] if was_retrained(results.summary) else []
    return [winner, *again, trials, folder.config_path, folder.summary_path]


def study_note(results: Results, links: Mapping[str, str]) -> str:
    """Write the run's summary as Markdown.

    Args:
        results: The tables of a run that has ended.
        links: For each file, its path on the dashboard.
    """
    config, summary, trials = results.config, results.summary, results.trials
    winner, probe, kind = summary["winner"], summary["linear_probe"], results.kind
    ranked, n_test, items = RankedOn.recorded(config), summary["n_test_images"], kind_of(config)
    states = ", ".join(f"{number} {state}" for state, number in summary["n_trials"].items() if number)
    seconds = summary["wall_seconds"]
    metrics = metric_head(kind)
    for name, method in ((f"winner, trial {winner['trial']}", winner), ("linear probe", probe)):
        metrics.append(metric_row(kind, f"{name}, {ranked.words}", method["val"], ranked.n_images))
        if was_tested(summary):
            metrics.append(metric_row(kind, f"{name}, {n_test} test {items}", method["test"], n_test))
    best: list[str] = []
    for row in trials.head(TOP).to_dict("records"):
        named = {str(name): value for name, value in row.items()}
        values = ", ".join(f"{markdown_text(name)} {number_text(named[name])}" for name in results.objectives)
        best.append(
            f"{len(best) + 1}. trial {named['trial']}: {values}; {settings_text(hyperparameters_of(named, trials))}"
        )
    sections = [
        f"## {markdown_text(config['study'])} on {markdown_text(config['data'])}",
        markdown_text(" ".join(findings(results, winner["trial"]))),
        "\n".join(metrics),
        f"Trials are ranked by {', then '.join(map(markdown_text, results.objectives))} on val after the last epoch. "
        f"{said_of_test(summary)} ± is the standard error over {items}.",
        "\n".join(best),
        f"Backbone {markdown_text(config['backbone'])}; {states}; the search ended because "
        f"{markdown_text(summary['ended'])}. Seconds: features {seconds['features']:.0f}, search "
        f"{seconds['search']:.0f}, total {seconds['total']:.0f}; "
        f"{summary['configs_per_hour']:.0f} configurations per hour.",
        "Files: " + ", ".join(f"[{markdown_text(name)}]({path})" for name, path in links.items()),
        f"    {command_line(config['command'])}",
    ]
    return "\n\n".join(sections) + "\n"
