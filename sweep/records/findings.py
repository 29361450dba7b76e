"""The findings of a run, as sentences above its tables."""

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from sweep.records.paired import NORMAL_95, lead_of_the_best_of_equals
from sweep.records.ranked_on import RankedOn
from sweep.records.results import Results
from sweep.records.verdict import verdict
from sweep.tasks.inputs import kind_of

BASELINE = 0
"""The number of the trial that the others are compared with."""


def findings(results: Results, winner: int) -> list[str]:
    """Say which trial is best, by how much, whether that is more than noise, and what to try.

    Args:
        results: Tables of a run with at least one complete trial.
        winner: The number of the trial that is ranked first.

    Returns:
        Sentences: the winner and the linear probe on test, if the run ended; the winner and the baseline on val; and
        how much of a lead the choice of the best explains.
    """
    if not results.summary:
        return ["The run has not ended, so nothing has been measured on test yet.", *_on_val(results, winner)]
    said = verdict(results.summary, results.kind, kind_of(results.config), results.config["epochs"])
    return [f"{said[0].upper()}{said[1:]}.", *_on_val(results, winner)]


def _on_val(results: Results, winner: int) -> Iterable[str]:
    kind, ranked = results.kind, RankedOn.recorded(results.config)
    mean, low, high = kind.paired_columns
    row = _row(results, winner)
    if winner == BASELINE:
        yield f"No trial is ranked above the baseline, trial {BASELINE}."
    elif not math.isnan(row[mean]):
        contains_0 = row[low] <= 0 <= row[high]
        yield (
            f"On the {ranked.words} trial {winner} differs from the baseline, trial {BASELINE}, by "
            f"{row[mean]:+.3f} in {kind.paired_heading.strip(',')} (95% interval {row[low]:+.3f} to {row[high]:+.3f})"
            + (", which may be noise." if contains_0 else ".")
        )
    yield from _luck(results, row)


def _luck(results: Results, row: Mapping[str, Any]) -> Iterable[str]:
    """How far the best of equally good trials would lead by luck, if trials are ranked by the score."""
    kind = results.kind
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    n_trials = int(results.trials["state"].isin(["COMPLETE", "PRUNED"]).sum())  # rungs choose the best, too
    if next(iter(results.objectives)) != f"val_{kind.score}" or n_trials < 2:
        return
    ranked = RankedOn.recorded(results.config)
    error, about = _noise(results, complete.to_dict("records"), row)
    if math.isnan(error):
        return
    lead = lead_of_the_best_of_equals(n_trials, error)
    yield (
        f"If all {n_trials} trials were equally good, the best of them would still lead their average by "
        f"{about} {lead:.3f} in {kind.metrics[kind.score]} on {ranked.n_images} {ranked.items}, by luck. The winner's "
        f"val number is too high by that much if they are, and by less if the winner is really better."
    )


def _noise(results: Results, complete: list[dict[Any, Any]], row: Mapping[str, Any]) -> tuple[float, str]:
    """The standard error of a trial's score that trials do not share, and how well it is known.

    Trials answer the same images, so most of what makes an image set easy is shared. What is not shared shows in the
    differences to the baseline, whose variance is that of two trials.
    """
    kind = results.kind
    _, low, high = kind.paired_columns
    if kind.paired == kind.score:
        errors = [(r[high] - r[low]) / (2 * NORMAL_95 * math.sqrt(2)) for r in complete if r["trial"] != BASELINE]
        if known := [error for error in errors if not math.isnan(error)]:
            return statistics.median(known), "about"
    of_winner = {name.removeprefix("val_"): value for name, value in row.items() if str(name).startswith("val_")}
    measured = of_winner | (results.summary["winner"]["val"] if results.summary else {})
    return kind.standard_error(measured, RankedOn.recorded(results.config).n_images), "at most"


def _row(results: Results, trial: int) -> dict[str, Any]:
    (row,) = results.trials[results.trials["trial"] == trial].to_dict("records")
    return {str(name): value for name, value in row.items()}
