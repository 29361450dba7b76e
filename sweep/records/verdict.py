"""Says whether winner or linear probe is better on test, by how much, whether that is noise, and what to try."""

import math
from collections.abc import Mapping
from typing import Any

from sweep.records.paired import NORMAL_95
from sweep.records.tested import was_tested
from sweep.study.probe import EPOCHS_FACTOR
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import TaskKind


def verdict(summary: Mapping[str, Any], kind: TaskKind, items: Kind, n_epochs: int) -> str:
    """The result of a run in a sentence or two.

    Args:
        summary: Summary of a run that has ended, checked by `require_summary`.
        kind: Kind of task.
        items: Images or texts.
        n_epochs: Epochs of a trial.
    """
    if not was_tested(summary):
        return (
            f"the test {items} were not looked at (--no-test); when everything is chosen, export the winner and "
            f"measure it on them with sweep evaluate"
        )
    n_test = summary["n_test_images"]
    winner, probe = (summary[method]["test"] for method in ("winner", "linear_probe"))
    lead = winner[kind.score] - probe[kind.score]
    score = kind.metrics[kind.score]
    values = f"{winner[kind.score]:.3f} against {probe[kind.score]:.3f}"
    if lead == 0:
        return f"on the {n_test} test {items}, winner and linear probe have the same {score}, {winner[kind.score]:.3f}"
    errors = [kind.standard_error(metrics, n_test) for metrics in (winner, probe)]
    noise = NORMAL_95 * math.hypot(*errors)
    if math.isnan(noise):
        certainty = "the noise of this difference is not known"
    elif abs(lead) > noise:
        certainty = f"that is outside the noise (95%: {noise:.3f})"
    else:
        certainty = f"that is within the noise (95%: {noise:.3f}), so it decides nothing"
    who, other = ("the winner", "the linear probe") if lead > 0 else ("the linear probe", "the winner")
    if lead < 0:
        values = f"{probe[kind.score]:.3f} against {winner[kind.score]:.3f}"
    by = f"{abs(lead):.3f} in {score} ({values})"
    said = f"on the {n_test} test {items}, {who} is ahead of {other} by {by}; {certainty}"
    if lead > 0:
        return said
    longer = EPOCHS_FACTOR * n_epochs
    return (
        f"{said}. The probe trained for {longer} epochs and the trials for {n_epochs}: try --epochs {longer}; if the "
        f"probe stays ahead, adapting the backbone does not pay on these data"
    )
