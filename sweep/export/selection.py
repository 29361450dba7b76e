"""Choose the trials of a run to export."""

import re
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import require_entries
from sweep.records.folder import RunFolder
from sweep.records.results import PARAMETER_PREFIX, Results, parameter_columns
from sweep.records.tested import was_retrained
from sweep.search.lane_weights import KEPT_TRIALS, LaneWeights, retrained_weights, weights_of
from sweep.side_networks.spec import SideNetworkSpec


@dataclass(frozen=True)
class Chosen:
    """One trial to export.

    Attributes:
        weights: The trained weights, without the ranks that were pruned.
        row: The row of the trial in the table.
        hyperparameters: Optuna's parameters that the trial has.
        retrained: Whether the weights are those of the winner trained again on train and val.
    """

    weights: LaneWeights
    row: dict[str, Any]
    hyperparameters: dict[str, Any]
    retrained: bool = False


def winner_of(results: Results, folder: RunFolder) -> int:
    """Return the number of the trial that the run ranks first.

    Raises:
        SweepError: No trial is complete, or the summary is damaged.
    """
    if results.summary:
        require_entries(folder.summary_path, results.summary, {"winner.trial": int})
        return int(results.summary["winner"]["trial"])
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    if complete.empty:
        failures = results.trials.loc[results.trials["state"] == "FAIL", "failure"]
        if len(failures) and len(failures) == len(results.trials):
            raise SweepError(
                f"no trial of {folder.path} is complete, so there is no winner: all {len(failures)} failed, the first "
                f"with: {failures.iloc[0]}. Mend that, and run the study again"
            )
        raise SweepError(
            f"no trial of {folder.path} is complete yet, so there is no winner; let the run go on, or continue it with "
            f"sweep resume {folder.path}"
        )
    return int(complete.iloc[0]["trial"])


def choose(
    results: Results, folder: RunFolder, *, trial: int | None, ensemble: str | None
) -> tuple[SideNetworkSpec, list[Chosen]]:
    """Choose the trials to export.

    Args:
        results: The run's tables.
        folder: The run's folder.
        trial: The number of a trial, whose weights are those of the search; the winner if not given, trained again on
            train and val if the run did so.
        ensemble: `"topK"` for the K best complete trials together, or `"pareto"` for the Pareto front.

    Returns:
        The shape of the side-networks, and the trials, best first.

    Raises:
        UsageError: There is no such trial, it is not complete, or its weights were not kept.
        SweepError: No trial is complete, or a file is damaged.
    """
    if trial is not None and ensemble is not None:
        raise UsageError("--trial exports one trial and --ensemble several; give only one of these options")
    winner = winner_of(results, folder)
    numbers = [winner if trial is None else trial] if ensemble is None else _members(results, ensemble)
    chosen = []
    for number in numbers:
        row = _row(results.trials, number, folder)
        again = trial is None and ensemble is None and was_retrained(results.summary)
        spec, weights = retrained_weights(folder, winner) if again else weights_of(folder, number, winner)
        weights = replace(weights, state=spec.pruned(weights.state))
        chosen.append(Chosen(weights, row, hyperparameters_of(row, results.trials), again))
    return spec, chosen


def hyperparameters_of(row: dict[str, Any], trials: pd.DataFrame) -> dict[str, Any]:
    """Return the parameters of one row, without those that its trial does not have."""
    values = {name.removeprefix(PARAMETER_PREFIX): row[name] for name in parameter_columns(trials)}
    return {name: getattr(value, "item", lambda v=value: v)() for name, value in values.items() if not pd.isna(value)}


def _members(results: Results, ensemble: str) -> list[int]:
    complete = results.trials[results.trials["state"] == "COMPLETE"]
    if ensemble == "pareto":
        return _front(results, complete)
    match = re.fullmatch(r"top([1-9]\d*)", ensemble)
    if match is None or int(match[1]) < 2:
        raise UsageError(
            f"--ensemble must be top2, top3, … for that many of the best trials, or pareto for the Pareto front, "
            f"not {ensemble!r}"
        )
    count = int(match[1])
    if len(complete) < count:
        raise UsageError(f"--ensemble {ensemble} needs {count} complete trials, and the run has {len(complete)}")
    return [int(number) for number in complete["trial"].head(count)]


def _front(results: Results, complete: pd.DataFrame) -> list[int]:
    if len(results.objectives) == 1:
        only = next(iter(results.objectives))
        raise UsageError(
            f"--ensemble pareto needs a run with several objectives, and this run has only {only}; give top5"
        )
    front = complete.loc[complete["front"] == 0, "trial"]
    if len(front) > KEPT_TRIALS:
        raise UsageError(
            f"the Pareto front has {len(front)} trials, and a run keeps the weights of its {KEPT_TRIALS} best; "
            f"give --ensemble top{KEPT_TRIALS}"
        )
    return [int(number) for number in front]


def _row(trials: pd.DataFrame, trial: int, folder: RunFolder) -> dict[str, Any]:
    rows: list[dict[str, Any]] = trials[trials["trial"] == trial].to_dict("records")  # type: ignore[assignment]
    if not rows:
        raise UsageError(f"{folder.path} has no trial {trial}; sweep results {folder.path} lists those it has")
    (row,) = rows
    if row["state"] != "COMPLETE":
        reason = f": {row['failure']}" if row["failure"] else ""
        raise UsageError(f"trial {trial} is {row['state']}{reason}; only a complete trial can be exported")
    return row
