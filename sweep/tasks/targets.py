"""What side-networks learn to say of an image: how a label becomes a loss's target, and an output an answer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.tasks.kinds import CLASSES, LARGEST_TARGET, MULTI_LABEL, REGRESSION, TaskKind, recorded_kind
from sweep.tasks.metrics import (
    classification_metrics,
    correct_answers,
    multi_label_metrics,
    regression_metrics,
    right_labels,
)

N_RESAMPLES = 200
"""Of the images, for a bootstrapped standard error."""


@dataclass(frozen=True)
class Target:
    """The kind of a data set's targets, and what is needed to go to and fro between them and outputs.

    Attributes:
        kind: Of task.
        mean: Of each of `C` targets on the train images, for a regression; else empty.
        std: Their standard deviations, likewise.
    """

    kind: TaskKind = CLASSES
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, task: str, train_labels: np.ndarray) -> "Target":
        """The target of a data set.

        Args:
            task: Name of the kind of task.
            train_labels: Labels of the train split, `(n,)` or `(n, C)`; a regression takes its scale from them.
        """
        if task != REGRESSION.name:
            return cls(MULTI_LABEL if task == MULTI_LABEL.name else CLASSES)
        return cls(REGRESSION, tuple(train_labels.mean(0).tolist()), tuple(train_labels.std(0).tolist()))

    def encode(self, labels: Tensor, like: Tensor) -> Tensor:
        """Labels as losses take them, on the device of `like`.

        Args:
            labels: Class indices `(B,)`; or 0 and 1, or numbers in their own units, `(B, C)`.
            like: A tensor with the dtype and device of outputs.

        Returns:
            Class indices `(B,)`; 0 and 1, or numbers of mean 0 and deviation 1 on train, `(B, C)`, with `like`'s dtype.
        """
        if self.kind is CLASSES:
            return labels.to(like.device)
        if self.kind is REGRESSION:
            labels = labels.double()
            labels = (labels - labels.new_tensor(self.mean)) / labels.new_tensor(self.std)
        return labels.to(like)

    def decode(self, outputs: Tensor) -> Tensor:
        """What outputs `(..., C)` say: logits as they are; numbers in their own units, in fp64.

        A Julian date or a UNIX time in single precision would be off by hours or minutes.
        """
        if self.kind is not REGRESSION:
            return outputs
        outputs = outputs.double()
        return outputs * outputs.new_tensor(self.std) + outputs.new_tensor(self.mean)

    def together(self, outputs: Tensor) -> Tensor:
        """What several members say together, `(B, C)`, of what each says, `(N, B, C)`, as `decode` has it.

        The logarithm of their mean probabilities; the logits of them; the mean of their numbers.
        """
        n_members = len(outputs)
        if self.kind is CLASSES:
            return F.log_softmax(outputs, dim=-1).logsumexp(0) - math.log(n_members)
        if self.kind is MULTI_LABEL:
            return F.logsigmoid(outputs).logsumexp(0) - F.logsigmoid(-outputs).logsumexp(0)
        return outputs.mean(0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of each class or each label, from what `decode` gave, `(..., C)`; numbers as they are."""
        if self.kind is CLASSES:
            return outputs.softmax(-1)
        return outputs.sigmoid() if self.kind is MULTI_LABEL else outputs

    def counts(self, labels: Tensor, n_outputs: int) -> Tensor:
        """Images of each class or with each label, `(C,)`; zeros for numbers, which have no classes."""
        if self.kind is CLASSES:
            return torch.bincount(labels, minlength=n_outputs)
        return labels.sum(0) if self.kind is MULTI_LABEL else torch.zeros(n_outputs, dtype=torch.int64)

    def measure(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The kind's metrics of every lane, each `(N,)`, from outputs `(N, n, C)`; see `sweep.tasks.metrics`.

        Errors of a regression are taken between standardised numbers, so that no metric depends on where the targets'
        zero is.
        """
        if self.kind is CLASSES:
            return classification_metrics(outputs, labels)
        if self.kind is MULTI_LABEL:
            return multi_label_metrics(outputs, labels)
        outputs = outputs.double()
        return regression_metrics(outputs, self.encode(labels, outputs), unit=outputs.new_tensor(self.std))

    def of_images(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What each lane's answer to each image is worth, `(N, n)`: the kind's `paired`.

        Right or not, of bool; the share of labels that are right; the squared error, in the targets' variances on
        train, the mean over targets.
        """
        if self.kind is CLASSES:
            return correct_answers(outputs, labels)
        if self.kind is MULTI_LABEL:
            return right_labels(outputs, labels)
        return (outputs.double() - self.encode(labels, outputs.double())).square().mean(-1)

    def measure_one(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """The metrics of one lane, outputs `(n, C)`, with the score's standard error."""
        metrics = {name: values[0].item() for name, values in self.measure(outputs[None], labels).items()}
        return metrics | self.standard_error(outputs, labels)

    def standard_error(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """The standard error of one lane's score, to stand beside it as `…_error`; nothing for classes: theirs follows.

        It is the deviation over 200 resamples of the images, with replacement, always the same ones.
        """
        if self.kind is CLASSES:
            return {}
        generator = torch.Generator().manual_seed(0)
        n_images = len(labels)
        scores = []
        for _ in range(N_RESAMPLES):
            drawn = torch.randint(n_images, (n_images,), generator=generator)
            scores.append(self.measure(outputs[None, drawn], labels[drawn])[self.kind.score].item())
        defined = torch.tensor(scores, dtype=torch.float64)
        defined = defined[defined.isfinite()]  # a resample may lack every label, or all variance
        return {f"{self.kind.score}_error": defined.std().item() if len(defined) > 1 else math.nan}


OF_CLASSES = Target()


def recorded_target(record: Mapping[str, Any], n_outputs: int) -> Target:
    """What was written down as `task`, `mean` and `std`; records without a task are of classes.

    Raises:
        KeyError: The mean or the deviation of a regression is missing.
        TypeError: They are no numbers.
        ValueError: They are not one a target, finite and in range.
        SweepError: There is no such task.
    """
    if not isinstance(record, Mapping):
        raise TypeError(f"{record!r} is no JSON object")
    kind = recorded_kind(record)
    if kind is not REGRESSION:
        return Target(kind)
    mean, std = (tuple(map(_finite, record[name])) for name in ("mean", "std"))
    if not (len(mean) == len(std) == n_outputs and all(deviation > 0 for deviation in std)):
        raise ValueError(f"mean {mean} and std {std} are not those of {n_outputs} targets")
    return Target(kind, mean, std)


def _finite(number: Any) -> float:
    if not isinstance(number, int | float) or not abs(number) <= LARGEST_TARGET:
        raise ValueError(f"{str(number)[:40]!r} is no finite number")
    return float(number)
