"""What each worker can take, by what it has measured. No result depends on it."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from sweep.records.worker_words import shares_in_words
from sweep.study.shape import Shape
from sweep.workers.measured import Measured
from sweep.workers.packing import packed
from sweep.workers.pool import Call

MEASURE_SECONDS = 10.0
"""A worker should have measured what it has after this time."""


class MemoryModel(Protocol):
    """How much memory lanes take."""

    def lanes_that_fit(self, shape: Shape, free_bytes: int) -> int:
        """The most lanes of a shape that train at a time in so much free memory; may be zero."""

    def left_for_features(self, shape: Shape, n_lanes: int, free_bytes: int) -> int:
        """How many bytes features may take beside so many lanes of a shape."""


class Shares:
    """What the workers have.

    Args:
        memory: How much memory lanes take.
        n_lanes: Lanes of all workers together.
        lanes_each: The most lanes of a shape that the user lets a worker train at a time; None for what fits.

    Attributes:
        measured: What each worker has measured, of those that are counted on.
        free_bytes: Each worker's part of the memory that it shares with others.
        speeds: Multiply-adds a second of each worker, before it has trained. Equal processors are as fast as the
            fastest of them was, because other programs may have disturbed the others.
    """

    def __init__(self, memory: MemoryModel, n_lanes: int, lanes_each: int | None = None):
        self.memory, self.n_lanes, self.lanes_each = memory, n_lanes, lanes_each
        self.measured: dict[int, Measured] = {}
        self.free_bytes: dict[int, int] = {}
        self.speeds: dict[int, float] = {}
        self._limits: dict[tuple[int, Shape], int] = {}

    def measure(self, workers: Sequence[int], call: Call, shapes: Collection[Shape]) -> list[int]:
        """Have workers measure what they have, all at the same time, and count on them from now on.

        Args:
            workers: Workers that are not counted on yet.
            call: Calls them.
            shapes: Shapes of lanes that are to be trained.

        Returns:
            Those that were not lost.
        """
        answers = dict(call(dict.fromkeys(workers, packed(("measure", ()))), MEASURE_SECONDS))
        self.measured |= answers
        self._divide()
        on_gpus = [worker for worker, own in answers.items() if own.on_gpu]
        rooms = {worker: packed(("take_room", (self._bytes_for_features(worker, shapes),))) for worker in on_gpus}
        with_room = dict(call(rooms, MEASURE_SECONDS))
        return [worker for worker, own in answers.items() if not own.on_gpu or worker in with_room]

    def leave(self, worker: int) -> None:
        """Count on a worker no longer."""
        self._limits = {(other, shape): most for (other, shape), most in self._limits.items() if other != worker}
        if self.measured.pop(worker, None) is not None:
            self._divide()

    def unmeasured(self, workers: Iterable[int]) -> list[int]:
        """Those of some workers that are not counted on yet."""
        return [worker for worker in workers if worker not in self.measured]

    def _divide(self) -> None:
        all_of_them = self.measured.items()
        n_sharing = Counter((own.host, own.memory) for _, own in all_of_them)
        self.free_bytes = {worker: own.free_bytes // n_sharing[own.host, own.memory] for worker, own in all_of_them}
        fastest: dict[tuple[str, int], float] = {}
        for _, own in all_of_them:
            kind = own.processor, own.n_threads
            fastest[kind] = max(own.speed, fastest.get(kind, 0.0))
        self.speeds = {worker: fastest[own.processor, own.n_threads] for worker, own in all_of_them}

    def limit(self, worker: int, most_lanes: Mapping[Shape, int]) -> None:
        """Count on a worker, whose memory has run out, for so many lanes of some shapes at the most; may be none."""
        self._limits |= {(worker, shape): most for shape, most in most_lanes.items()}

    def most_lanes(self, worker: int, shape: Shape) -> int:
        """The most lanes of a shape that a worker trains at a time.

        It is at least one, unless a trial of that shape has not fitted in the worker's memory.
        """
        fitting = max(1, self.memory.lanes_that_fit(shape, self.free_bytes[worker]))
        limit = self._limits.get((worker, shape), fitting)
        return min(fitting, limit, fitting if self.lanes_each is None else self.lanes_each)

    def have_room(self, workers: Iterable[int], shape: Shape) -> bool:
        """Whether a trial of a shape fits on any of some workers, as far as is known."""
        return any(self.most_lanes(worker, shape) > 0 for worker in workers)

    def in_words(self, lanes: Mapping[int, Mapping[Shape, int]]) -> str:
        """How many lanes each worker has, and how many it trains at a time at most, in one line.

        Args:
            lanes: By number of the worker, its lanes of each shape.
        """
        shapes = {shape for held in lanes.values() for shape in held}
        shares = dict[int, str]()
        for worker, held in lanes.items():
            most = min(filter(None, (self.most_lanes(worker, shape) for shape in shapes)), default=0)
            shares[worker] = f"{sum(held.values())} (at most {most} at a time)"
        return shares_in_words(shares)

    def _bytes_for_features(self, worker: int, shapes: Iterable[Shape]) -> int:
        """Memory that a worker may use for features, if its share of all lanes has any of these shapes."""
        share = math.ceil(self.n_lanes * self.speeds[worker] / sum(self.speeds.values()))
        return min(
            self.memory.left_for_features(shape, min(share, self.most_lanes(worker, shape)), self.free_bytes[worker])
            for shape in shapes
        )
