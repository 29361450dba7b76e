"""The hypervolume that a search with several objectives dominates, trial by trial."""

from typing import Any

import optuna
from optuna.trial import TrialState

from sweep.search.samplers import experiments_allowed


def reference_point(study: optuna.Study) -> list[float]:
    """The worst value of every objective among complete trials, against which hypervolumes are measured."""
    values = [trial.values for trial in study.get_trials(states=[TrialState.COMPLETE])]
    worst = {optuna.study.StudyDirection.MAXIMIZE: min, optuna.study.StudyDirection.MINIMIZE: max}
    return [
        worst[direction](column) for direction, column in zip(study.directions, zip(*values, strict=True), strict=True)
    ]


def hypervolume(study: optuna.Study) -> dict[str, Any] | None:
    """Hypervolume after every complete trial, as Optuna computes it.

    Args:
        study: A study with any number of objectives.

    Returns:
        `reference_point`, and `after_trial`: pairs of a trial's number and the volume that it and the complete trials
        of lower numbers dominate. None if the study has one objective or no complete trial.
    """
    if len(study.directions) < 2 or not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        return None
    reference = reference_point(study)
    with experiments_allowed():
        figure = optuna.visualization.plot_hypervolume_history(study, reference)
    history = figure.data[0]
    return {
        "reference_point": reference,
        "after_trial": [list(pair) for pair in zip(history.x, history.y, strict=True)],
    }
