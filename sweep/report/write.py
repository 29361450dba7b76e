"""A run folder turned into its report."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from backbones import Taps, recorded_stages
from backbones.protocol import to_rgb
from sweep.errors import SweepError, UsageError
from sweep.export.card import METRICS, command_line
from sweep.export.selection import hyperparameters_of, winner_of
from sweep.paths import write_atomically
from sweep.report import page
from sweep.report.evidence import Evidence, winner_on_val
from sweep.report.figures import (
    BASELINE,
    confusion_matrix,
    learning_curves,
    reliability_diagram,
    search_figures,
)
from sweep.report.page import Cell, Page
from sweep.results import PARAMETER_PREFIX, Results, load_results, parameter_columns
from sweep.run_folder import RunFolder
from sweep.storage import load_optuna_study

N_CONFUSED = 24
N_NAMED_CLASSES = 20
THUMBNAIL_SIDE = 132
PNG_SCALE = 2
PNG_WIDTH, PNG_HEIGHT = 1000, 560

NOTES = {
    "Which parameters matter": "Optuna's PED-ANOVA over the trials that have the parameter: rough where few do.",
    "All configurations": "One line a trial, darker the better. Drag along an axis to select.",
    "One parameter at a time": "Every trial against each of its parameters; a parameter's neighbours vary too.",
}


def write_report(
    run: Path, target: Path, *, cache_dir: Path, say: Callable[[str], None], storage_url: str | None = None
) -> dict[str, Figure]:
    """Write a run's report as one HTML file that opens without a network.

    Args:
        run: A run folder; one that was interrupted gives the report so far.
        target: The file.
        cache_dir: Root of sweep's cache, for the features of the val images.
        say: Told of what had to be left out.
        storage_url: Of a run whose trials are not in its own journal.

    Returns:
        The figures in it, by a name fit for a file.

    Raises:
        UsageError: The folder is not a run's.
        SweepError: A file is missing or damaged, no trial is complete, or the report cannot be written.
    """
    folder = RunFolder.open(run)
    results = load_results(run)
    winner = winner_of(results, folder)
    document = Page(f"{results.config['study']}: {len(results.trials)} trials on {results.config['data']}")
    figures: dict[str, Figure] = {}

    def plotted(name: str, figure: Figure) -> str:
        figures[name] = figure
        return page.plot(figure, name)

    document.add(_summary(results, winner))
    document.add(_trials(results))
    document.add(page.heading("Learning curves") + plotted("learning-curves", learning_curves(results.curves, winner)))
    for title, figure in search_figures(load_optuna_study(folder, storage_url, f"sweep report {run}")).items():
        name = title.lower().replace(" ", "-")
        document.add(page.heading(title) + page.paragraph(NOTES[title], quiet=True) + plotted(name, figure))
    try:
        evidence = winner_on_val(results, folder, winner, cache_dir)
    except SweepError as error:
        say(f"left out, what the winner does image by image: {error}")
        document.add(
            page.heading("The winner on val, image by image") + page.paragraph(f"Left out: {error}", quiet=True)
        )
    else:
        classes = results.config["classes"]
        document.add(
            page.heading(f"Confusion of trial {winner} on val")
            + plotted("confusion", confusion_matrix(evidence, classes)),
            page.heading(f"Calibration of trial {winner} on val")
            + plotted("calibration", reliability_diagram(evidence)),
        )
        document.add(_most_confused(evidence, classes))
    document.add(_cost(results), _made_with(results))
    html = document.html()
    try:
        write_atomically(target, lambda partial: partial.write_text(html, encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"cannot write {target}: {error.strerror}; give another file with --out") from error
    return figures


def write_png(figures: dict[str, Figure], folder: Path) -> None:
    """Write figures as PNG files.

    Args:
        figures: By name.
        folder: Made where it is missing.

    Raises:
        SweepError: kaleido or a browser is missing, or the folder cannot be written to.
    """
    remedy = 'install kaleido, python -m pip install -e ".[report]", and Chromium, or leave --png out'
    try:
        import kaleido
    except ImportError as error:
        raise SweepError(f"--png needs kaleido: {remedy}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}; give another with --png") from error
    options = {"width": PNG_WIDTH, "height": PNG_HEIGHT, "scale": PNG_SCALE, "format": "png"}
    jobs = [{"fig": figure, "path": folder / f"{name}.png", "opts": options} for name, figure in figures.items()]
    try:
        kaleido.write_fig_from_object_sync(jobs)
    except Exception as error:  # of the browser that kaleido drives: whatever it likes to raise
        reason = str(error).strip().splitlines()
        raise SweepError(f"--png: {reason[0] if reason else type(error).__name__}; {remedy}") from error


def _summary(results: Results, winner: int) -> str:
    config, summary = results.config, results.summary
    row = _row(results.trials, winner)
    n_val, n_test = (config["splits"][name]["images"] for name in ("val", "test"))
    columns = ["", *(f"{name}, {split}" for split in ("val", "test") for name in ("top-1", "NLL", "ECE"))]
    rows = [[Cell(f"winner, trial {winner}"), *_metrics({k: row[f"val_{k}"] for k in METRICS}, n_val)]]
    if winner != BASELINE and not (base := results.trials[results.trials["trial"] == BASELINE]).empty:
        of_base = {k: base.iloc[0][f"val_{k}"] for k in METRICS}
        rows.append([Cell(f"baseline, trial {BASELINE}"), *_metrics(of_base, n_val), *_metrics(None, n_test)])
    if summary:
        rows[0] += _metrics(summary["winner"]["test"], n_test)
        probe = summary["linear_probe"]
        name = f"linear probe, best of {probe['n_configurations']}"
        rows.append([Cell(name), *_metrics(probe["val"], n_val), *_metrics(probe["test"], n_test)])
    else:
        rows[0] += _metrics(None, n_test)
    states = results.trials["state"].value_counts().to_dict()
    note = (
        f"{n_val} val and {n_test} test images; ± is the standard error over images. Trials are ranked by "
        f"{', '.join(results.objectives)} "
        f"after the last epoch, and val numbers of the best of many flatter. "
        + (
            "Test was looked at once, by winner and probe."
            if summary
            else "The run did not end: test was not looked at."
        )
    )
    classes = config["classes"]
    more = f", … ({len(classes)} in all)" if len(classes) > N_NAMED_CLASSES else ""
    facts = {
        "data": f"{config['data']}. {config['data_notice']}",
        "classes": ", ".join(classes[:N_NAMED_CLASSES]) + more,
        "backbone": f"{config['backbone']} at {config['transform']['image_size']} px, "
        f"{Taps(config['group_size'], recorded_stages(config.get('stages')))}",
        "trials": ", ".join(f"{count} {state}" for state, count in states.items()),
        f"trial {winner}": ", ".join(f"{k} = {_number(v)}" for k, v in hyperparameters_of(row, results.trials).items()),
    }
    return page.heading("The answer") + page.table(columns, rows) + page.paragraph(note, quiet=True) + page.pairs(facts)


def _metrics(metrics: dict[str, float] | None, n_images: int) -> list[Cell]:
    if metrics is None:
        return [Cell("")] * 3
    top1 = metrics["top1"]
    error = math.sqrt(top1 * (1 - top1) / n_images)
    return [
        Cell(f"{top1:.3f} ± {error:.3f}", top1),
        *(Cell(f"{metrics[name]:.3f}", metrics[name]) for name in ("nll", "ece")),
    ]


def _interval(row: dict[str, Any]) -> str:
    low, high = row["top1_vs_baseline_low"], row["top1_vs_baseline_high"]
    return "" if math.isnan(low) or row["trial"] == BASELINE else f"{low:+.3f} to {high:+.3f}"


def _row(trials: pd.DataFrame, trial: int) -> dict[str, Any]:
    (row,) = trials[trials["trial"] == trial].to_dict("records")
    return {str(name): value for name, value in row.items()}


def _trials(results: Results) -> str:
    trials = results.trials
    shown = {"val_mean_class_accuracy": "class acc.", "val_nll": "NLL", "val_ece": "ECE", "train_loss": "train loss"}
    records = [{str(name): value for name, value in row.items()} for row in trials.to_dict("records")]
    parameters = [name.removeprefix(PARAMETER_PREFIX) for name in parameter_columns(trials)]
    columns = [
        "rank",
        "trial",
        "state",
        "top-1",
        "to baseline",
        "95%",
        *shown.values(),
        *parameters,
        "size",
        "seconds",
        "why",
    ]
    rows = []
    for rank, row in enumerate(records, start=1):
        own = hyperparameters_of(row, trials)
        rows.append(
            [
                Cell(str(rank), float(rank)),
                Cell(str(row["trial"]), float(row["trial"])),
                Cell(row["state"]),
                _cell(row["val_top1"]),
                _cell(row["top1_vs_baseline"], signed=True),
                Cell(_interval(row), row["top1_vs_baseline_low"]),
                *(_cell(row[name]) for name in shown),
                *(_cell(own.get(name)) for name in parameters),
                Cell(f"{row['trainable_parameters']:,}", float(row["trainable_parameters"])),
                _cell(row["seconds"]),
                Cell(row["failure"] or row["stopped"]),
            ]
        )
    note = (
        "Click a heading to sort. “to baseline” is the paired difference of top-1 to trial 0 after as many epochs, on "
        "the same val images, with its 95% interval over images."
    )
    return (
        page.heading("Trials, best first") + page.paragraph(note, quiet=True) + page.table(columns, rows, sortable=True)
    )


def _cell(value: Any, *, signed: bool = False) -> Cell:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if isinstance(value, float | int) and not isinstance(value, bool):
        return Cell(f"{value:+.3f}" if signed else _number(value), float(value))
    return Cell(str(value), str(value))


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.1e}"


def _most_confused(evidence: Evidence, class_names: Sequence[str]) -> str:
    indices = evidence.most_confused(N_CONFUSED)
    n_wrong = int((evidence.predicted != evidence.labels).sum())
    pictures = []
    for index in indices:
        said, true = int(evidence.predicted[index]), int(evidence.labels[index])
        p = evidence.probabilities[index]
        lines = (
            f"is {class_names[true]} ({p[true]:.0%})",
            f"said {class_names[said]} ({p[said]:.0%})",
            f"val image {index}",
        )
        pictures.append(page.image(_thumbnail(evidence, index), lines))
    note = (
        f"{n_wrong} of {len(evidence.labels)} val images are misclassified; "
        f"those come first that the winner is surest of."
    )
    return page.heading("Most confused images") + page.paragraph(note, quiet=True) + page.images(pictures)


def _thumbnail(evidence: Evidence, index: int) -> str:
    picture = to_rgb(evidence.val.open(index))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _cost(results: Results) -> str:
    facts = {"summed over trials": f"{results.trials['seconds'].sum():.1f} s of training"}
    if results.summary:
        seconds, plan = results.summary["wall_seconds"], results.summary.get("plan", {})
        facts |= {name.replace("_", " "): f"{value:.1f} s" for name, value in seconds.items()}
        facts["configurations per hour"] = f"{results.summary['configs_per_hour']:.0f}"
        facts["images through the backbone"] = f"{results.summary['n_images_computed']:,}"
        if plan:
            facts["feature cache"] = f"{plan['cache_bytes'] / 2**20:,.0f} MiB on disk"
            facts["lanes that fit"] = f"{plan['lanes_that_fit']:,}"
    return page.heading("Cost") + page.pairs(facts)


def _made_with(results: Results) -> str:
    config = results.config
    versions = {**config["versions"], "device": config["device"]}
    return page.heading("Made with") + page.preformatted(command_line(config["command"])) + page.pairs(versions)
