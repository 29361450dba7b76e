"""Data sets as three splits of lazily decoded images, or of texts."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from sweep.tasks.inputs import Kind, one_of

Labels = npt.NDArray[np.int64]
AnyLabels = npt.NDArray[np.int64 | np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        name: what the split is called, for messages.
        labels: (n,) int64, classes counted from 0; or (n, C), int64 of 0 and 1, or float64.
        opener: index to decoded Pillow image, or text; safe to call from several threads.
        fingerprinter: returns the fingerprint; called once, when it is first asked for.
        source: index to the file that the image comes from, or to the text's place; None where there is none to name.
        kind: what is in it. Of texts, what is said of images here holds likewise.
        digester: returns the SHA-256 of every item's content, `(n,)`; None where items are not compared.
    """

    name: str
    labels: AnyLabels
    opener: Callable[[int], Any] = field(repr=False)
    fingerprinter: Callable[[], str] = field(repr=False)
    source: Callable[[int], str] | None = field(default=None, repr=False)
    kind: Kind = "images"
    digester: Callable[[], Sequence[str]] | None = field(default=None, repr=False)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 hex digest that changes whenever an image or a label does."""
        return self.fingerprinter()

    def open(self, index: int) -> Any:
        """Decode image `index` (0 ≤ index < `n_images`), or return that text.

        Raises:
            IndexError: there is no such image.
            SweepError: the file cannot be read or decoded.
        """
        if not 0 <= index < self.n_images:
            raise IndexError(f"{one_of(self.kind)} {index} of split {self.name!r}, which has {self.n_images}")
        return self.opener(index)

    def describe(self, index: int) -> str:
        """Say which image or text `index` is, for messages: its number, and its file where there is one."""
        file = f" ({self.source(index)})" if self.source else ""
        return f"{one_of(self.kind)} {index} of split {self.name!r}{file}"

    def joined(self, other: "Split") -> "Split":
        """These images and then those of `other`."""
        n_own = self.n_images

        def where(index: int) -> tuple["Split", int]:
            return (self, index) if index < n_own else (other, index - n_own)

        def opener(index: int) -> Any:
            part, place = where(index)
            return part.open(place)

        def source(index: int) -> str:
            part, place = where(index)
            return part.describe(place)

        return Split(
            f"{self.name} and {other.name}",
            np.concatenate([self.labels, other.labels]),
            opener,
            lambda: digest_of(["joined", self.fingerprint, other.fingerprint]),
            source,
            self.kind,
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
class DataSet:
    """A task: train to fit, val to choose, test for the one final evaluation.

    Attributes:
        name: short name.
        description: one line on what the images are and how they were split.
        class_names: name of every class, in order of label; or of every label, or target, that an image may have.
        train: images to fit on.
        val: images to choose by.
        test: images for the final evaluation.
        notice: origin and licence, to be shown with results; empty for a user's own files.
        skipped: unreadable images that were left out because the user said so.
        left_aside: number of files that are no images by their extension, by extension.
        task: `"classes"`, `"multi-label"` or `"regression"`, see `sweep.tasks.kinds`.
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
        """What the splits hold."""
        return self.train.kind

    @property
    def n_classes(self) -> int:
        """Number of classes, labels or targets, C."""
        return len(self.class_names)


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Return the SHA-256 hex digest over `parts`, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def stratified_split(labels: Labels, shares: tuple[float, ...], seed: int) -> tuple[Indices, ...]:
    """Split indices class by class into one part more than there are `shares`.

    Args:
        labels: (n,) int64.
        shares: fraction of each class that goes into each part but the first; at least one image each.
        seed: seed of the permutation within each class.

    Returns:
        Sorted index arrays: first what remains, then one for each share.
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
