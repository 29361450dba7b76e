"""The metrics of every lane after an epoch: sweep's and the study's own. If one fails, only its own trial fails."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sweep.features.batches import StageData
from sweep.machine.user_code import line_of
from sweep.tasks.kinds import DETECTION
from sweep.training.engine import EpochResult

Metric = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class LaneMeasurement:
    """The measurements of one lane after one epoch.

    Attributes:
        metrics: Metrics by name: those on the validation set with the prefix `val_`, `train_loss`, and if ranks are
            learned `effective_rank`.
        failure: Why the trial fails; empty if it does not.
    """

    metrics: dict[str, float]
    failure: str


def measure_lanes(result: EpochResult, val_data: StageData, own_metrics: Mapping[str, Metric]) -> list[LaneMeasurement]:
    """Measure every lane.

    Args:
        result: Result of the epoch.
        val_data: The validation set.
        own_metrics: The study's own metrics by name; see `Study.metrics`.
    """
    lanes = []
    for i, (logits, of_lane) in enumerate(zip(result.val_logits, lane_metrics(result, val_data), strict=True)):
        which = slice(None) if result.held_out is None else result.held_out[i]
        labels = val_data.labels[which]
        shown = val_data.target.shown(logits[which], labels) if own_metrics else logits
        metrics = {f"val_{name}": value for name, value in of_lane.items()}
        train_loss = result.train_loss[i].item()
        finite = all(map(math.isfinite, [*metrics.values(), train_loss]))
        failure = "" if finite else f"diverged, training loss {train_loss:.3g}"
        for name, metric in own_metrics.items():
            metrics[f"val_{name}"] = math.nan
            if not failure:
                metrics[f"val_{name}"], failure = _own(name, metric, shown, labels)
        metrics["train_loss"] = train_loss
        if result.effective_rank is not None:
            metrics["effective_rank"] = result.effective_rank[i].item()
        lanes.append(LaneMeasurement(metrics, failure))
    return lanes


def lane_metrics(result: EpochResult, val_data: StageData) -> list[dict[str, float]]:
    """The task's metrics of every lane by name, on the images that it is measured on; arguments as `measure_lanes`."""
    if result.held_out is None:
        return _metrics_of(result.val_logits, val_data.labels, val_data)
    return [
        _metrics_of(logits[None, own], val_data.labels[own], val_data)[0]
        for logits, own in zip(result.val_logits, result.held_out, strict=True)
    ]


def _metrics_of(outputs: Tensor, labels: Tensor, val_data: StageData) -> list[dict[str, float]]:
    n_lanes = len(outputs)
    # One beside a copy of itself, as in training: PyTorch sums one row in other parts than two. Boxes are measured
    # lane by lane in any case.
    if n_lanes == 1 and val_data.target.kind is not DETECTION:
        outputs = torch.cat([outputs, outputs])
    measured = val_data.target.measure(outputs, labels)
    return [{name: values[i].item() for name, values in measured.items()} for i in range(n_lanes)]


def _own(name: str, metric: Metric, logits: Tensor, labels: Tensor) -> tuple[float, str]:
    """The value of a study's own metric, and what is wrong with it (empty if nothing is)."""
    try:
        given: object = metric(logits.clone(), labels.clone())
        if given is None:
            return math.nan, f"the study's metric {name} returned nothing; it must return a number"
        value = float(given)  # type: ignore[arg-type]
    except Exception as error:  # the user's code may raise anything; only this lane fails
        reason = f"{type(error).__name__}: {error} ({line_of(metric, error)})"
        return math.nan, f"the study's metric {name} failed: {reason}"
    return value, "" if math.isfinite(value) else f"the study's metric {name} gave {value}"
