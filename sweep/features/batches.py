"""Labelled stages in batches: which images make a batch, and in which order."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from backbones.stages import Stages
from sweep.features.rows import JoinedRows, Rows, SelectedColumns, SelectedStages
from sweep.machine.seeds import generator
from sweep.tasks.targets import OF_CLASSES, Target

Batch = tuple[list[Tensor], Tensor]
"""Stages of some images, each `(B, L, D)` with its own `D`, and their labels as `Target.encode` returns them."""


class TrainingData(Protocol):
    """The training set of side-networks. The features of an image may differ from one data order to the next."""

    @property
    def class_counts(self) -> Tensor:
        """Images of each class or with each label, `(C,)`."""

    def __len__(self) -> int: ...

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """Yield batch after batch. Close the generator if it is not read to its end.

        Args:
            order: Number of the data order to follow, counted from 1.
            indices: Indices of the images in each batch, `(B,)`.
            like: A tensor with the dtype and device that the stages should have.
        """

    def pooled(self, tokens: slice) -> "TrainingData":
        """The same images with every stage's tokens reduced to one, their mean over `tokens`, in fp32."""


@dataclass(frozen=True)
class StageData:
    """Stages and labels of one split.

    Attributes:
        stages: Stages of all images, `(n, S, L, D)` for `S` stages of one width; see `stored_shape` for several
            widths. Any float type; may be memory-mapped.
        labels: Class indices `(n,)`; or 0 and 1, or numbers, `(n, C)`; or maps of classes, `(n, M, M)` uint8.
        n_classes: Number of classes, labels or targets `C`.
        widths: Width `D` of every stage; may be left out if all are equal.
        target: The kind of the labels, and for regression their scale.
        lengths: Number of tokens of every text, `(n,)`; None for images.
    """

    stages: Rows
    labels: Tensor
    n_classes: int
    widths: tuple[int, ...] = field(default=(), kw_only=True)
    target: Target = field(default=OF_CLASSES, kw_only=True)
    lengths: Tensor | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.labels)

    def joined(self, other: "StageData") -> "StageData":
        """These images followed by those of `other`. Only labels are copied."""
        stages, labels = JoinedRows(self.stages, other.stages), torch.cat([self.labels, other.labels])
        if self.lengths is None or other.lengths is None:
            return self._of(stages, labels)
        return self._of(stages, labels, torch.cat([self.lengths, other.lengths]))

    def of_stages(self, which: Sequence[int]) -> "StageData":
        """The same images with only some of their stages, by index.

        Args:
            which: Indices of the stages; one after the other if stages differ in width.
        """
        if len(set(self.widths)) <= 1:
            some = self._of(SelectedStages(self.stages, which), self.labels, self.lengths)
            return replace(some, widths=self.widths[: len(which)])
        first, last = which[0], which[-1]
        if list(which) != list(range(first, last + 1)):
            raise ValueError(f"stages of several widths are taken one after the other, not {list(which)}")
        start, widths = sum(self.widths[:first]), self.widths[first : last + 1]
        some = self._of(SelectedColumns(self.stages, start, widths), self.labels, self.lengths)
        return replace(some, widths=widths)

    def first(self, n_images: int) -> "StageData":
        """The first `n_images` of these images."""
        lengths = None if self.lengths is None else self.lengths[:n_images]
        return self._of(self.stages[:n_images], self.labels[:n_images], lengths)

    @property
    def class_counts(self) -> Tensor:
        """Images of each class or with each label, `(C,)`; see `Target.counts`."""
        return self.target.counts(self.labels, self.n_classes)

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`; images are the same in every data order."""
        for wanted in indices:
            yield self.batch(wanted, like)

    def batch(self, indices: Tensor, like: Tensor) -> Batch:
        """Read some images.

        Args:
            indices: Indices of the images, `(B,)`.
            like: A tensor with the dtype and device that the stages should have.

        Returns:
            The stages, each `(B, L, D)` with its own `D`, and the labels as `Target.encode` returns them. For texts the
            stages are `Stages`, and `L` is the length of the longest text in the batch.
        """
        return self.of_stored(self.stored(indices).to(like.device), self.labels[indices], indices, like)

    def stored(self, indices: Tensor) -> Tensor:
        """Some images as they are stored, `(B, S, L, D)` or as `stored_shape` says, copied to the host's memory."""
        return torch.from_numpy(self.stages[indices.numpy()])

    def of_stored(self, stored: Tensor, labels: Tensor, indices: Tensor, like: Tensor) -> Batch:
        """The result of `batch`, made from the result of `stored` on the device of `like` and from its labels."""
        stages = self._with_lengths(apart(stages_first(stored, like), self.widths), indices)
        return stages, self.target.encode(labels, like)

    def _with_lengths(self, stages: list[Tensor], indices: Tensor) -> list[Tensor]:
        """The stages of a batch of texts, with how long these are; those of images as they are."""
        if self.lengths is None:
            return stages
        lengths = self.lengths[indices]
        longest = int(lengths.max())
        return Stages((stage[:, :longest] for stage in stages), lengths.to(stages[0].device))

    def pooled(self, tokens: slice) -> "StageData":
        """The same images with every stage's tokens reduced to one, their mean over `tokens`, in fp32.

        Of a text they are `tokens` of those it has.
        """
        ends = [None] * len(self) if self.lengths is None else self.lengths.tolist()
        means = [
            image[:, :end][:, tokens].mean(1, keepdims=True, dtype=np.float32)
            for image, end in zip(self.stages, ends, strict=True)
        ]
        return self._of(np.stack(means), self.labels)

    def _of(self, stages: Rows, labels: Tensor, lengths: Tensor | None = None) -> "StageData":
        return StageData(stages, labels, self.n_classes, widths=self.widths, target=self.target, lengths=lengths)


def stored_shape(widths: Sequence[int], tokens: int) -> tuple[int, int, int]:
    """The shape in which an image's stages are stored: `(S, L, D)`, or `(1, L, Σ D_i)` if widths differ."""
    return (len(widths), tokens, widths[0]) if len(set(widths)) == 1 else (1, tokens, sum(widths))


def stages_first(stored: Tensor, like: Tensor) -> Tensor:
    """Stored images `(B, S, L, D)` as `(S, B, L, D)` in the dtype of `like`."""
    images = stored.transpose(0, 1)
    return torch.empty(images.shape, dtype=like.dtype, device=stored.device).copy_(images)


def apart(stored: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """Split stored features into stages, each `(..., D_i)`: along the first dimension, or the last if widths differ."""
    return list(stored.unbind() if len(set(widths)) <= 1 else stored[0].split(tuple(widths), -1))


def training_batches(n_images: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Indices of the batches of one epoch. They are the same for all lanes and trials of a study.

    Args:
        n_images: Number of images in the training set.
        batch_size: Batch size `B`; the last batch of an epoch may be smaller.
        seed: The study's seed.
        epoch: Number of the epoch, counted from 1; every epoch has its own order.
    """
    order = torch.randperm(n_images, generator=generator(seed, "data order", epoch))
    yield from order.split(batch_size)


def n_batches(n_images: int, batch_size: int) -> int:
    """Number of batches in an epoch."""
    return -(-n_images // batch_size)
