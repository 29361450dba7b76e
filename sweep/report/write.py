"""Write a run's report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from plotly.graph_objects import Figure

from sweep.errors import SweepError, UsageError
from sweep.export.selection import winner_of
from sweep.machine.settings import own_settings
from sweep.records.entries import require_config
from sweep.records.folder import RunFolder
from sweep.records.results import load_results
from sweep.records.worker_log import read_worker_log
from sweep.report import page, tables
from sweep.report.compare import compare_runs
from sweep.report.compare_page import comparison_sections
from sweep.report.evidence import FIRST_FOLD, winner_on_val
from sweep.report.figures import learning_curves
from sweep.report.page import Page
from sweep.report.search_sections import front_section, search_sections
from sweep.report.winner import winner_sections
from sweep.search.optuna_storage import load_optuna_study

PNG_SCALE = 2
PNG_WIDTH, PNG_HEIGHT = 1000, 560


@own_settings()
def write_report(
    run: Path,
    target: Path,
    *,
    cache_dir: Path,
    say: Callable[[str], None],
    storage_url: str | None = None,
    data: str | None = None,
    backbone_file: str | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Figure]:
    """Write a run's report as one HTML file that opens without a network.

    Args:
        run: A run folder; one that was interrupted gives the report so far.
        target: The file.
        cache_dir: Root of sweep's cache, for the features of the val images.
        say: Called with a message for everything that had to be left out.
        storage_url: URL of the Optuna storage, if the run was given one.
        data: Where the data are now, if they have moved since the run.
        backbone_file: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was the user's own.
        others: Runs to compare this one with.

    Returns:
        The figures of the report, by names that can be used for files.

    Raises:
        UsageError: A folder is not a run folder, or the other runs have another kind of task.
        SweepError: A file is missing or damaged, no trial is complete, or the report cannot be written.
    """
    folder = RunFolder.open(run)
    results = load_results(run)
    winner = winner_of(results, folder)
    require_config(folder, results.config)
    document = Page(f"{results.config['study']}: {len(results.trials)} trials on {results.config['data']}")
    figures: dict[str, Figure] = {}

    def plotted(name: str, figure: Figure, *, least_width: int = 0) -> str:
        figures[name] = figure
        return page.plot(figure, name, least_width=least_width)

    document.add(tables.answer(results, winner))
    if others:
        comparison = compare_runs([run, *others], cache_dir, data=data, backbone_file=backbone_file)
        for section in comparison_sections(comparison, plotted):
            document.add(section)
    if len(results.objectives) > 1:
        document.add(front_section(results, plotted))
    document.add(tables.trials(results))
    curves = plotted("learning-curves", learning_curves(results.curves, winner, list(results.objectives)))
    document.add(page.heading("Learning curves") + curves)
    study = load_optuna_study(folder, storage_url, f"sweep report {run}")
    for section in search_sections(study, results, winner, plotted):
        document.add(section)
    try:
        evidence = winner_on_val(results, folder, winner, cache_dir, data=data, backbone_file=backbone_file)
    except SweepError as error:
        say(f"the winner's predictions on val are left out: {error}")
        document.add(page.heading("The winner on val") + page.paragraph(f"Left out: {error}", quiet=True))
    else:
        if evidence.split == FIRST_FOLD:
            note = (
                f"The sections below show the {len(evidence.labels)} {evidence.kind} of the first fold, as answered by "
                f"the winner's lane that did not learn from them."
            )
            document.add(page.paragraph(note, quiet=True))
        for sections in winner_sections(evidence, results, winner, plotted):
            document.add(*sections)
    document.add(tables.cost(results, read_worker_log(folder)), tables.made_with(results))
    document.add(tables.words(results))
    document.write(target)
    return figures


def write_png(figures: dict[str, Figure], folder: Path) -> None:
    """Write figures as PNG files.

    Args:
        figures: The figures by name.
        folder: The folder to write to; it is created if it is missing.

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
        raise UsageError(f"cannot create the folder {folder}: {error.strerror}; choose another with --png") from error
    options = {"width": PNG_WIDTH, "height": PNG_HEIGHT, "scale": PNG_SCALE, "format": "png"}
    jobs = [{"fig": figure, "path": folder / f"{name}.png", "opts": options} for name, figure in figures.items()]
    try:
        kaleido.write_fig_from_object_sync(jobs)
    except Exception as error:  # kaleido drives a browser, which raises errors of many types
        reason = str(error).strip().splitlines()
        raise SweepError(f"--png: {reason[0] if reason else type(error).__name__}; {remedy}") from error
