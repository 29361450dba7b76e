"""Every lane's numbers after an epoch: our metrics and the study's own; one that breaks breaks its own trial only."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sweep.features.batches import StageData
from sweep.machine.user_code import line_of
from sweep.training.engine import EpochResult

Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class LaneMeasurement:
    """One lane after one epoch.

    Attributes:
        metrics: `val_…` by name, and `train_loss`.
        failure: What is wrong with them; empty if nothing is.
    """

    metrics: dict[str, float]
    failure: str


def measure_lanes(result: EpochResult, val_data: StageData, own_metrics: Mapping[str, Metric]) -> list[LaneMeasurement]:
    """Measure every lane.

    Args:
        result: Of the epoch.
        val_data: The val images.
        own_metrics: The study's, of logits `(n, C)` and labels `(n,)` or `(n, C)`, numbers in their own units.
    """
    labels, outputs = val_data.labels, result.val_logits
    if len(outputs) == 1:  # beside a copy of itself, as in training: PyTorch sums one row in other parts than two
        outputs = outputs.repeat(2, 1, 1)
    of_stack = val_data.target.measure(outputs, labels)
    lanes = []
    for i, logits in enumerate(val_data.target.decode(result.val_logits)):
        metrics = {f"val_{name}": values[i].item() for name, values in of_stack.items()}
        train_loss = result.train_loss[i].item()
        finite = all(map(math.isfinite, [*metrics.values(), train_loss]))
        failure = "" if finite else f"diverged, training loss {train_loss:.3g}"
        for name, metric in own_metrics.items():
            metrics[f"val_{name}"] = math.nan
            if not failure:
                metrics[f"val_{name}"], failure = _own(name, metric, logits, labels)
        lanes.append(LaneMeasurement({**metrics, "train_loss": train_loss}, failure))
    return lanes


def _own(name: str, metric: Metric, logits: Tensor, labels: Tensor) -> tuple[float, str]:
    """The value of a metric of the study's, and what is wrong with it."""
    try:
        given: object = metric(logits.clone(), labels.clone())
        if given is None:
            return math.nan, f"the study's metric {name} returned nothing; it must return a number"
        value = float(given)  # type: ignore[arg-type]
    except Exception as error:  # the user's code: whatever it raises is this lane's failure and nobody else's
        reason = f"{type(error).__name__}: {error} ({line_of(metric, error)})"
        return math.nan, f"the study's metric {name} failed: {reason}"
    return value, "" if math.isfinite(value) else f"the study's metric {name} gave {value}"
