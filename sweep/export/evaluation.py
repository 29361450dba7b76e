"""Measure an exported model on labelled data."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sweep.data import Split
from sweep.data.decoding import UnreadableImageError
from sweep.data.files import all_unreadable
from sweep.errors import SweepError
from sweep.export.evaluated_data import EvaluatedData
from sweep.export.model import AdaptedModel
from sweep.features.labels import labels_for
from sweep.tasks.breakdown import (
    CalibrationBin,
    ClassBoxes,
    ClassOverlap,
    LabelScore,
    calibration_bins,
    class_boxes,
    class_overlaps,
    class_scores,
    confusion_counts,
    label_scores,
)
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import CLASSES, DETECTION, MULTI_LABEL, REGRESSION, SEGMENTATION
from sweep.tasks.metrics import regression_metrics
from sweep.tasks.targets import Target

DECODING_THREADS = 4
MODEL, ENSEMBLE = "model", "ensemble"


@dataclass(frozen=True)
class Evaluation:
    """The outputs of a model for labelled images or texts, with the true labels.

    Attributes:
        data: Name of the data set.
        part: The split that was measured, or `"all"`.
        kind: Images or texts.
        class_names: Names of the classes, labels or targets.
        target: The target, which says what outputs mean.
        outputs: Outputs of the model, `(n, C)` or `(n, P, C)`, as `AdaptedModel.outputs` returns them; for detection
            the boxes that are found, `(n, D, 6)`.
        labels: True labels, `(n,)`, `(n, C)`, `(n, M, M)` or `(n, M, 6)`.
        members: Outputs of each member of an ensemble, by `trial N`; empty for a model of one trial.
    """

    data: str
    part: str
    kind: Kind
    class_names: tuple[str, ...]
    target: Target
    outputs: Tensor
    labels: Tensor
    members: dict[str, Tensor]

    @property
    def n_items(self) -> int:
        """Number of images or texts."""
        return len(self.labels)

    @cached_property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics by name, with the standard error of the score as `…_error`: of the whole, then of every member."""
        whole = ENSEMBLE if self.members else MODEL
        return {name: self._measured(outputs) for name, outputs in {whole: self.outputs, **self.members}.items()}

    @cached_property
    def confusion(self) -> Tensor | None:
        """Number of images by true class (row) and predicted class (column), `(C, C)`; None for other tasks."""
        if self.target.kind is not CLASSES:
            return None
        return confusion_counts(self.outputs.argmax(-1), self.labels, len(self.class_names))

    @property
    def calibration(self) -> list[CalibrationBin]:
        """See `calibration_bins`; empty for tasks without classes."""
        if self.target.kind is not CLASSES:
            return []
        return calibration_bins(self.outputs.double().softmax(-1), self.labels)

    @property
    def by_label(self) -> list[LabelScore]:
        """Scores of every class or label; empty for a regression."""
        if self.confusion is not None:
            return class_scores(self.confusion, self.class_names)
        if self.target.kind is MULTI_LABEL:
            return label_scores(self.outputs.double().sigmoid(), self.labels, self.class_names)
        return []

    @property
    def by_target(self) -> dict[str, dict[str, float]]:
        """Metrics of every target of a regression, by its name; empty for other tasks."""
        if self.target.kind is not REGRESSION:
            return {}
        numbers, truth = (self._standardised(x) for x in (self.outputs, self.labels))
        return {
            name: {
                metric: values.item()
                for metric, values in regression_metrics(
                    numbers[None, :, i : i + 1], truth[:, i : i + 1], unit=self.target.std[i]
                ).items()
            }
            for i, name in enumerate(self.class_names)
        }

    @property
    def by_class(self) -> list[ClassOverlap]:
        """Scores of every class of a segmentation; empty for other tasks."""
        if self.target.kind is not SEGMENTATION:
            return []
        return class_overlaps(self.outputs, self.labels, self.class_names)

    @property
    def by_boxes(self) -> list[ClassBoxes]:
        """Scores of every class of a detection; empty for other tasks."""
        if self.target.kind is not DETECTION:
            return []
        return class_boxes(self.outputs, self.labels, self.class_names)

    def as_json(self) -> dict[str, Any]:
        """Everything but the single answers, as JSON can hold it: null stands for what is not defined."""
        found = {
            "data": self.data,
            "split": self.part,
            f"n_{self.kind}": self.n_items,
            "task": self.target.kind.name,
            "classes": list(self.class_names),
            "metrics": self.metrics,
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "calibration": [asdict(one) for one in self.calibration],
            "by_class": [asdict(one) for one in (self.by_class or self.by_boxes)],
            "by_label": [asdict(one) for one in self.by_label],
            "by_target": self.by_target,
        }
        return {name: _defined(value) for name, value in found.items() if value not in (None, [], {})}

    def _measured(self, outputs: Tensor) -> dict[str, float]:
        kind = self.target.kind
        encoded = self._standardised(outputs) if kind is REGRESSION else outputs
        found = self.target.measure_one(encoded, self.labels)
        return found | {f"{kind.score}_error": kind.standard_error(found, self.n_items)}

    def _standardised(self, numbers: Tensor) -> Tensor:
        return self.target.encode(numbers.double(), numbers.double())


def _defined(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _defined(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.no_grad()
def evaluate(
    model: AdaptedModel,
    data: EvaluatedData,
    *,
    trials: Sequence[int],
    batch_size: int,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Run a model over labelled data.

    Args:
        model: The model; inputs are sent to its device.
        data: The labelled data.
        trials: Number of the trial of every side-network.
        batch_size: Images, or texts, in one forward pass.
        on_progress: Called after every batch with the number of its items.

    Raises:
        SweepError: Images cannot be read (the message lists them), or an output is not a number.
    """
    device = next(model.parameters()).device
    several, parts = len(model.side_networks) > 1, []
    for inputs in _batches(model, data.split, batch_size):
        stages = model.backbone.stages(inputs.to(device))
        decoded = torch.stack([model.target.decode(network(stages)).cpu() for network in model.side_networks])
        whole = model.target.together(decoded)[None] if several else decoded[:0]
        parts.append(model.target.condensed(torch.cat([whole, decoded])))
        on_progress(len(inputs))
    outputs = torch.cat(parts, 1)
    if not outputs.isfinite().all():
        raise SweepError("the model gives outputs that are not numbers, so nothing can be measured")
    with_places = data.split.masks is not None or data.split.boxes is not None
    return Evaluation(
        data=data.name,
        part=data.part,
        kind=data.split.kind,
        class_names=model.class_names,
        target=model.target,
        outputs=outputs[0],
        labels=labels_for(model.backbone, data.split) if with_places else torch.from_numpy(data.labels),
        members={f"trial {t}": own for t, own in zip(trials, outputs[1:], strict=True)} if several else {},
    )


def _batches(model: AdaptedModel, split: Split, batch_size: int) -> Iterator[Tensor]:
    """Transformed images or texts, `(B, …)`, in order."""

    def read(index: int) -> Tensor:
        transformed: Tensor = model.transform(split.open(index))
        return transformed

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode") as pool:
        for start in range(0, split.n_images, batch_size):
            batch = range(start, min(start + batch_size, split.n_images))
            try:
                inputs = torch.stack(list(pool.map(read, batch)))
            except UnreadableImageError as error:
                raise all_unreadable(split, error) from error
            yield inputs
