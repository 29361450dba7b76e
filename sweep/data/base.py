"""A data set as three splits of images, which are decoded when they are opened, or of texts."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from sweep.tasks.inputs import Kind, one_of

if TYPE_CHECKING:
    from sweep.data.boxes import Boxes

Labels = npt.NDArray[np.int64]
AnyLabels = npt.NDArray[np.int64 | np.float64]
Indices = npt.NDArray[np.int64]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        name: name of the split, for messages.
        labels: class indices from 0, (n,) int64; or 0 and 1, (n, C) int64; or numbers, (n, C) float64; or for
            segmentation the number of each image's pixels of every class, (n, C) int64; or for detection the number of
            each image's boxes of every class that are not ignored, (n, C) int64.
        opener: maps an index to the decoded Pillow image, or to the text; safe to call from several threads.
        fingerprinter: returns the fingerprint; called once, when it is first needed.
        source: maps an index to the image's file, or to the position of the text; None if there is no name for it.
        kind: images or texts. The attributes of a split of texts are named after images, too.
        digester: returns the SHA-256 of every item's content, `(n,)`; None if items are not compared.
        masks: for segmentation, maps an index to the image's mask, a Pillow image of its size in mode L or P, whose
            values are classes, or 255 where there is no label; safe to call from several threads.
        boxes: for detection, maps an index to the image's boxes; safe to call from several threads.
        most_boxes: for detection, the largest number of boxes of an image in any split of the data set.
    """

    name: str
    labels: AnyLabels
    opener: Callable[[int], Any] = field(repr=False)
    fingerprinter: Callable[[], str] = field(repr=False)
    source: Callable[[int], str] | None = field(default=None, repr=False)
    kind: Kind = "images"
    digester: Callable[[], Sequence[str]] | None = field(default=None, repr=False)
    masks: Callable[[int], Any] | None = field(default=None, repr=False)
    boxes: "Callable[[int], Boxes] | None" = field(default=None, repr=False)
    most_boxes: int = 0

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 hex digest that changes whenever an image or a label does."""
        return self.fingerprinter()

    def open(self, index: int) -> Any:
        """Decode image `index` (0 ≤ index < `n_images`), or return the text.

        Raises:
            IndexError: there is no such image.
            SweepError: the file cannot be read or decoded.
        """
        if not 0 <= index < self.n_images:
            raise IndexError(f"{one_of(self.kind)} {index} of split {self.name!r}, which has {self.n_images}")
        return self.opener(index)

    def describe(self, index: int) -> str:
        """Describe image or text `index` for messages: its number, and its file if it has one."""
        file = f" ({self.source(index)})" if self.source else ""
        return f"{one_of(self.kind)} {index} of split {self.name!r}{file}"

    def only(self, indices: Sequence[int], name: str) -> "Split":
        """Some of these images, under another name."""
        where = list(indices)
        return Split(
            name,
            self.labels[where],
            lambda index: self.open(where[index]),
            lambda: digest_of(["only", self.fingerprint, *map(str, where)]),
            lambda index: self.source(where[index]) if self.source else self.describe(where[index]),
            self.kind,
            masks=_reordered(self.masks, where),
            boxes=_reordered(self.boxes, where),
            most_boxes=self.most_boxes,
        )

    def joined(self, other: "Split") -> "Split":
        """These images followed by those of `other`."""
        n_own = self.n_images

        def where(index: int) -> tuple["Split", int]:
            return (self, index) if index < n_own else (other, index - n_own)

        def opener(index: int) -> Any:
            part, place = where(index)
            return part.open(place)

        def source(index: int) -> str:
            part, place = where(index)
            return part.describe(place)

        def masks(index: int) -> Any:
            part, place = where(index)
            assert part.masks is not None
            return part.masks(place)

        def boxes(index: int) -> "Boxes":
            part, place = where(index)
            assert part.boxes is not None
            return part.boxes(place)

        return Split(
            f"{self.name} and {other.name}",
            np.concatenate([self.labels, other.labels]),
            opener,
            lambda: digest_of(["joined", self.fingerprint, other.fingerprint]),
            source,
            self.kind,
            masks=None if self.masks is None else masks,
            boxes=None if self.boxes is None else boxes,
            most_boxes=max(self.most_boxes, other.most_boxes),
        )


@dataclass(frozen=True)
class SkippedImage:
    """A file that was left out.

    Attributes:
        path: the file.
        reason: why it cannot be used.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class SkippedBox(SkippedImage):
    """A box that was left out, of an image that is used.

    Attributes:
        path: the annotation file.
        reason: which box it is, and why it cannot be used.
    """


@dataclass(frozen=True)
class SkippedObject(SkippedImage):
    """An object whose mask was left out, of an image that is used.

    Attributes:
        path: the annotation file.
        reason: which object it is, and why it cannot be used.
    """


@dataclass(frozen=True)
class DataSet:
    """The three splits of a task: trials train on train, are chosen on val, and are evaluated on test once.

    Attributes:
        name: short name.
        description: one line about the images and how they were split.
        class_names: names of the classes, in order of label; or of the labels or targets that an image may have.
        train: the training set.
        val: the validation set.
        test: the test set.
        notice: origin and licence, which are shown with results; empty for a user's own files.
        skipped: unreadable images, boxes and objects that were left out because the user asked for it.
        left_aside: number of files, by extension, that are not images by their extension.
        task: `"classes"`, `"multi-label"`, `"regression"`, `"segmentation"` or `"detection"`, see `sweep.tasks.kinds`.
    """

    name: str
    description: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    notice: str = ""
    skipped: tuple[SkippedImage, ...] = ()
    left_aside: Mapping[str, int] = field(default_factory=dict)
    task: str = "classes"

    @property
    def kind(self) -> Kind:
        """Images or texts."""
        return self.train.kind

    @property
    def n_classes(self) -> int:
        """Number of classes, labels or targets, C."""
        return len(self.class_names)


def _reordered(of_index: Callable[[int], Item] | None, where: Sequence[int]) -> Callable[[int], Item] | None:
    """A function of indices as one of places in `where`, which holds an index at each place. None stays None."""
    return None if of_index is None else lambda index: of_index(where[index])


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Return the SHA-256 hex digest over `parts`, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def stratified_split(labels: Labels, shares: tuple[float, ...], seed: int) -> tuple[Indices, ...]:
    """Split indices class by class into `len(shares) + 1` parts.

    Args:
        labels: (n,) int64.
        shares: fraction of each class that goes into each part except the first; at least one image each.
        seed: seed of the permutation within each class.

    Returns:
        Sorted index arrays: first the remaining indices, then one array for each share.
    """
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = np.random.default_rng([seed, int(label)]).permutation(members)
        start = 0
        for part, share in zip(parts[1:], shares, strict=True):
            count = max(1, round(share * len(members)))
            part.extend(members[start : start + count].tolist())
            start += count
        parts[0].extend(members[start:].tolist())
    return tuple(np.array(sorted(part), dtype=np.int64) for part in parts)
