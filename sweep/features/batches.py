"""Labelled stages in batches: which images make a batch, and in which order."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from backbones.stages import Stages
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


class Rows(Protocol):
    """The stages of many images: an array, or an object that is indexed like one along its first axis."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, …)`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""

    @property
    def nbytes(self) -> int:
        """Size of all values in bytes."""

    def __getitem__(self, index: Any, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


class JoinedRows:
    """Two arrays joined along the first axis without a copy.

    Args:
        first: `(n, …)`.
        second: `(p, …)`, with the same other dimensions and the same dtype.
    """

    def __init__(self, first: Rows, second: Rows):
        self._first, self._second = first, second
        self._n_first = first.shape[0]
        self.shape = (first.shape[0] + second.shape[0], *first.shape[1:])
        self.dtype = first.dtype
        self.nbytes = first.nbytes + second.nbytes

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice or an array of indices, copied."""
        wanted = np.arange(self.shape[0])[index]
        in_first = wanted < self._n_first
        first, second = self._first[wanted[in_first]], self._second[wanted[~in_first] - self._n_first]
        longest = tuple(map(max, first.shape[1:], second.shape[1:]))  # texts end with the longest that was read
        rows = np.zeros((len(wanted), *longest), self.dtype)
        for which, read in ((in_first, first), (~in_first, second)):
            place: tuple[Any, ...] = (which, *(slice(size) for size in read.shape[1:]))
            rows[place] = read
        return rows

    def __iter__(self) -> Iterator[np.ndarray]:
        return chain(self._first, self._second)


class SelectedStages:
    """Some of the stages of many images, read from an array that has more stages.

    Args:
        stages: `(n, S, L, D)`.
        which: Indices of the wanted stages among the `S`.
    """

    def __init__(self, stages: Rows, which: Sequence[int]):
        self._stages, self._which = stages, np.array(which)
        self.shape = (stages.shape[0], len(which), *stages.shape[2:])
        self.dtype = stages.dtype
        self.nbytes = stages.nbytes // stages.shape[1] * len(which)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice or an array of indices, copied."""
        wanted = np.arange(self.shape[0])[index]
        rows: np.ndarray = self._stages[np.ix_(wanted, self._which)]
        return rows

    def __iter__(self) -> Iterator[np.ndarray]:
        return (image[self._which] for image in self._stages)


class SelectedColumns:
    """One of the stages of many images, read from an array that has all stages beside each other.

    Args:
        stages: `(n, 1, L, Σ D_i)`.
        columns: The columns of the wanted stage.
    """

    def __init__(self, stages: Rows, columns: slice):
        self._stages, self._columns = stages, columns
        width = columns.stop - columns.start
        self.shape = (*stages.shape[:3], width)
        self.dtype = stages.dtype
        self.nbytes = stages.nbytes // stages.shape[3] * width

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice or an array of indices, copied."""
        rows: np.ndarray = self._stages[index][..., self._columns].copy()
        return rows

    def __iter__(self) -> Iterator[np.ndarray]:
        return (image[..., self._columns] for image in self._stages)


class PackedRows:
    """Stages of texts that are stored without padding.

    Args:
        values: All numbers, `(N,)`; those of a text have the shape `(S, L_i, D)`.
        starts: Index at which each text begins, `(n,)`.
        lengths: Number of tokens `L_i` of each text, `(n,)`.
        shape: The shape that an array of padded texts would have, `(n, S, L, D)`.
    """

    def __init__(self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, shape: tuple[int, int, int, int]):
        self._values, self._starts, self._lengths = values, starts, lengths
        self.shape = shape
        self.dtype = values.dtype
        self.nbytes = int(lengths.sum()) * shape[1] * shape[3] * values.dtype.itemsize

    def __getitem__(self, index: slice | np.ndarray | tuple[np.ndarray, ...]) -> np.ndarray:
        """Texts by a slice or an array of indices, `(k, S, l, D)`, padded with zeros to the longest of them, `l`.

        What `np.ix_` makes of texts and stages gives these stages of these texts, as it does of an array.
        """
        places, which = (part.ravel() for part in index) if isinstance(index, tuple) else (index, slice(None))
        wanted = np.arange(self.shape[0])[places]
        n_stages, width = len(np.arange(self.shape[1])[which]), self.shape[3]
        longest = int(self._lengths[wanted].max(initial=0))
        rows = np.zeros((len(wanted), n_stages, longest, width), self.dtype)
        for row, text in zip(rows, wanted.tolist(), strict=True):
            row[:, : self._lengths[text]] = self._text(text)[which]
        return rows

    def __iter__(self) -> Iterator[np.ndarray]:
        """The texts one by one, each `(S, L_i, D)`."""
        return map(self._text, range(self.shape[0]))

    def _text(self, text: int) -> np.ndarray:
        _, n_stages, _, width = self.shape
        start, length = int(self._starts[text]), int(self._lengths[text])
        return self._values[start : start + n_stages * length * width].reshape(n_stages, length, width)


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
        """The same images with only some of their stages, by index. All stages must have one width."""
        return self._of(SelectedStages(self.stages, which), self.labels, self.lengths)

    def of_stage(self, stage: int) -> "StageData":
        """The same images with only one of their stages, by index."""
        if len(set(self.widths)) <= 1:
            return replace(self.of_stages([stage]), widths=self.widths[:1])
        start = sum(self.widths[:stage])
        columns = slice(start, start + self.widths[stage])
        of_stage = self._of(SelectedColumns(self.stages, columns), self.labels, self.lengths)
        return replace(of_stage, widths=(self.widths[stage],))

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
