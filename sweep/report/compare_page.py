"""Several runs side by side, as sections of a page: their differences, winners, curves and the paired test."""

import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from plotly.graph_objects import Figure

from sweep.records.ranked_on import RankedOn
from sweep.records.tested import was_tested
from sweep.report import glossary, page
from sweep.report.colours import FIGURE_HEIGHT
from sweep.report.compare import Comparison, PairedTest, compare_runs
from sweep.report.page import Cell, Page, Plotted
from sweep.tasks.inputs import kind_of

HALF_WIDTH = 480
"""Width in pixels of a figure beside another one."""


def write_comparison(
    paths: Sequence[Path],
    target: Path,
    *,
    cache_dir: Path,
    data: str | None = None,
    backbone_file: str | None = None,
) -> Comparison:
    """Write the comparison of some runs as one HTML file that opens without a network.

    Args:
        paths: Run folders; the first is the reference.
        target: The file.
        cache_dir: Root of sweep's cache.
        data: As `compare_runs`.
        backbone_file: As `compare_runs`.

    Raises:
        UsageError: As `compare_runs`.
        SweepError: As `compare_runs`, or the file cannot be written.
    """
    comparison = compare_runs(paths, cache_dir, data=data, backbone_file=backbone_file)
    document = Page(f"{len(paths)} runs compared")

    def plotted(name: str, figure: Figure, *, least_width: int = 0) -> str:
        return page.plot(figure, name, least_width=least_width)

    for section in comparison_sections(comparison, plotted):
        document.add(section)
    document.add(page.glossary(glossary.entries(comparison.kind.metrics.values())))
    document.write(target)
    return comparison


def comparison_sections(comparison: Comparison, plotted: Plotted) -> Iterator[str]:
    """Sections of a page.

    Args:
        comparison: The comparison to show.
        plotted: Turns a figure, given its name, into HTML.
    """
    yield page.heading("Runs side by side") + page.table(*run_rows(comparison), sortable=True)
    figures = {"winners-by-epoch": winners_figure(comparison), "best-by-trial": best_so_far_figure(comparison)}
    parts = [plotted(name, figure) for name, figure in figures.items()]
    yield page.heading("Winners by epoch, and the best so far by trial") + page.grid(parts, HALF_WIDTH)
    shown = ""
    if comparison.tests:
        shown = page.paragraph(paired_note(comparison), quiet=True) + page.table(*paired_rows(comparison.tests))
    yield page.heading("Paired test on the same test images") + shown + _left_out(comparison)


def run_rows(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Headings and rows of the table of runs: differing settings, amount of training, and scores of the winners."""
    kind = comparison.kind
    score = kind.metrics[kind.score]
    columns = ["run", *comparison.differing, "complete trials", "winner", f"{score}, val", f"{score}, test"]
    columns += [f"{kind.metrics[name]}, test" for name in kind.shown[1:]] + ["linear probe, test", "size", "seconds"]
    rows = []
    for number, run in enumerate(comparison.runs):
        trials, summary = run.results.trials, run.results.summary
        (row,) = trials[trials["trial"] == run.winner].to_dict("records")
        ranked = RankedOn.recorded(run.results.config)
        val = ranked.metrics_of(row, kind) | (summary["winner"]["val"] if summary else {})
        cells = [Cell(run.name), *(Cell(values[number]) for values in comparison.differing.values())]
        n_complete = int((trials["state"] == "COMPLETE").sum())
        cells += [Cell(str(n_complete), float(n_complete)), Cell(str(run.winner), float(run.winner))]
        cells.append(Cell(kind.with_error(val, ranked.n_images), float(val[kind.score])))
        if was_tested(summary):
            n_test, test, probe = summary["n_test_images"], summary["winner"]["test"], summary["linear_probe"]["test"]
            cells.append(Cell(kind.with_error(test, n_test), float(test[kind.score])))
            cells += [Cell(f"{test[name]:.3f}", float(test[name])) for name in kind.shown[1:]]
            cells.append(Cell(kind.with_error(probe, n_test), float(probe[kind.score])))
        else:
            cells += [Cell("")] * (len(kind.shown) + 1)
        size, seconds = int(row["trainable_parameters"]), float(trials["seconds"].sum())
        rows.append([*cells, Cell(f"{size:,}", float(size)), Cell(f"{seconds:.0f}", seconds)])
    return columns, rows


def paired_rows(tests: Sequence[PairedTest]) -> tuple[list[str], list[list[Cell]]]:
    """Headings and rows of the table of paired tests."""
    columns = ["compared", "with", "backbones", "difference", "95% interval", "p"]
    rows = []
    for test in tests:
        difference = test.difference
        interval = "" if math.isnan(difference.low) else f"{difference.low:+.3f} to {difference.high:+.3f}"
        p = "" if math.isnan(test.p_value) else f"{test.p_value:.2g}"
        count = Cell(str(test.n_backbones), float(test.n_backbones))
        mean = Cell(f"{difference.mean:+.3f}", difference.mean)
        rows.append([Cell(test.name), Cell(test.reference), count, mean, Cell(interval), Cell(p)])
    return columns, rows


def paired_note(comparison: Comparison) -> str:
    """The text that explains the table of paired tests."""
    first = comparison.runs[0]
    items, n_images = kind_of(first.results.config), comparison.tests[0].n_images
    note = (
        f"The winners are compared on the same {n_images} test {items}. The differences are in "
        f"{comparison.kind.paired_heading} against {first.name}, with 95% intervals over {items}. p is the probability "
        f"of a difference at least as large if there were none. The intervals and p do not cover the choice of the "
        f"seed. Of 20 such tests without any difference, one is expected to have p below 0.05 by chance."
    )
    pooled = any(test.n_backbones > 1 for test in comparison.tests)
    note += " Rows with several backbones are averaged over these, image by image." if pooled else ""
    return note.replace(",,", ",")


def _left_out(comparison: Comparison) -> str:
    return "".join(
        page.paragraph(f"Left out, {name}: {reason}.", quiet=True) for name, reason in comparison.not_tested.items()
    )


def winners_figure(comparison: Comparison) -> Figure:
    """The score of every winner on the validation set by epoch, as the mean over replicates."""
    score, figure = comparison.kind.score, Figure()
    for run in comparison.runs:
        curves = run.results.curves
        own = curves[(curves["trial"] == run.winner) & (curves["metric"] == f"val_{score}")]
        means = own.groupby("epoch")["value"].mean()
        figure.add_scatter(x=means.index.tolist(), y=means.tolist(), mode="lines+markers", name=escape(run.name))
    return _styled(figure, "epoch", f"{comparison.kind.metrics[score]} on val, of the winner")


def best_so_far_figure(comparison: Comparison) -> Figure:
    """The best score on the validation set among complete trials, by number of trials."""
    score, figure = comparison.kind.score, Figure()
    for run in comparison.runs:
        trials = run.results.trials
        complete = trials[trials["state"] == "COMPLETE"].sort_values("trial")
        best = complete[f"val_{score}"].cummax()
        figure.add_scatter(x=complete["trial"].tolist(), y=best.tolist(), line={"shape": "hv"}, name=escape(run.name))
    return _styled(figure, "trial", f"best {comparison.kind.metrics[score]} on val so far")


def _styled(figure: Figure, x: str, y: str) -> Figure:
    legend = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0}
    return figure.update_layout(xaxis_title=x, yaxis_title=y, legend=legend, showlegend=True, height=FIGURE_HEIGHT)
