"""The stages of many images, indexed by image: joined, some of them selected, or stored without padding."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np


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

    def __getitem__(self, index: slice | np.ndarray | tuple[np.ndarray, ...]) -> np.ndarray:
        """Rows by a slice or an array of indices, copied; by the result of `np.ix_`, some stages of some rows."""
        places, which = (part.ravel() for part in index) if isinstance(index, tuple) else (index, None)
        wanted = np.arange(self.shape[0])[places]
        in_first = wanted < self._n_first
        of_first, of_second = wanted[in_first], wanted[~in_first] - self._n_first
        if which is None:
            first, second = self._first[of_first], self._second[of_second]
        else:
            first, second = self._first[np.ix_(of_first, which)], self._second[np.ix_(of_second, which)]
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
    """Some stages of many images, read from an array that has all stages beside each other.

    If the wanted stages have one width, they come one after the other, `(n, S, L, D)`; otherwise beside each other,
    `(n, 1, L, Σ D_i)`.

    Args:
        stages: `(n, 1, L, Σ D_i)`.
        start: The first column of the wanted stages, which lie side by side.
        widths: Widths of the wanted stages.
    """

    def __init__(self, stages: Rows, start: int, widths: Sequence[int]):
        n_columns = sum(widths)
        self._stages, self._columns = stages, slice(start, start + n_columns)
        self._n_stages = len(widths) if len(set(widths)) == 1 else 1
        n_images, _, n_tokens, n_all_columns = stages.shape
        self.shape = (n_images, self._n_stages, n_tokens, n_columns // self._n_stages)
        self.dtype = stages.dtype
        self.nbytes = stages.nbytes // n_all_columns * n_columns

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice or an array of indices, copied."""
        return self._apart(self._stages[index]).copy()

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._apart, self._stages)

    def _apart(self, images: np.ndarray) -> np.ndarray:
        """The wanted stages of images `(..., 1, L, Σ D_i)`."""
        side_by_side = images[..., 0, :, self._columns]
        apart = side_by_side.reshape(*side_by_side.shape[:-1], self._n_stages, -1)
        return np.moveaxis(apart, -2, -3)


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
