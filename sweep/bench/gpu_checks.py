"""Does a device train what a CPU trains? The checks that come before any timing on a GPU."""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from sweep.bench.graphed import GraphedRow
from sweep.bench.rows import SweepRow
from sweep.bench.same_weights import CHECK_STEPS, LARGEST_DIFFERENCE, distance
from sweep.bench.workload import LADDER_SIZES, Shape, Sizes, Workload
from sweep.training.graphs import WARM_UP_STEPS

SHAPE = Shape(n_stages=5, tokens=65, width=384)
"""The sizes of a ViT-S/14 at 112 px with a stage after every third block."""

FEW_LANES, MANY_LANES = 2, 32

LARGEST_BF16_DIFFERENCE = 0.3
"""The largest difference of weights in bf16 from those in fp32, relative to how far training moved them.

Chosen before anything was measured on a GPU: Adam turns a small gradient that bf16 rounds the other way into a step of
full length.
"""

NO_TIME = "no time was left for it"
LONGEST_REASON = 300
"""Most characters of an error that are kept."""

Weights = list[dict[str, Tensor]]
Trained = tuple[Weights, Weights]
"""Weights of all lanes before and after a few steps."""


@dataclass(frozen=True)
class Check:
    """One comparison of trained weights.

    Attributes:
        side_network: Family of the lanes.
        what: What was compared.
        value: The largest distance over lanes, relative to the distance that training moved them; None if there is no
            such number.
        bound: The largest value that is accepted.
        error: Why there is no value, in one line.
    """

    side_network: str
    what: str
    value: float | None
    bound: float
    error: str = ""

    @property
    def kept(self) -> bool:
        """Whether there is a value and it is within its bound."""
        return self.value is not None and self.value <= self.bound

    @property
    def in_words(self) -> str:
        """What came of it, in one line."""
        found = self.error if self.value is None else f"{self.value:.2g}"
        return f"{self.side_network}, {self.what}: {found}, {'within' if self.kept else 'NOT within'} {self.bound:g}"


def run_checks(device: str, until: float = math.inf) -> Iterator[Check]:
    """Train the same lanes in several ways, and compare their weights. A comparison that fails does not end the others.

    Args:
        device: PyTorch's name of the device.
        until: Reading of `time.perf_counter` after which no further comparison is begun. It then has no value.

    Yields:
        Every comparison, once it is made.
    """
    families: dict[str, Sizes] = {
        "last": Sizes(group_size=3, device=device, n_parallel=MANY_LANES),
        "ladder": Sizes(**LADDER_SIZES, device=device, n_parallel=MANY_LANES),
    }
    for family, sizes in families.items():
        for what, (bound, compare) in _comparisons(sizes).items():
            yield _checked(family, what, bound, compare, until)


def in_a_line(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}"[:LONGEST_REASON].removesuffix(": ")


def _comparisons(sizes: Sizes) -> dict[str, tuple[float, Callable[[], float]]]:
    """By what is compared, the bound and what computes the value."""
    ours = functools.cache(partial(_trained, sizes, FEW_LANES))

    def with_ours(other: Callable[[], Trained]) -> Callable[[], float]:
        return lambda: _difference(*ours(), other()[1][:FEW_LANES])

    def with_graphs() -> float:
        steps = WARM_UP_STEPS + CHECK_STEPS
        graphed = _trained(sizes, FEW_LANES, steps, GraphedRow)[1]
        return _difference(*_trained(sizes, FEW_LANES, steps), graphed)

    found: dict[str, tuple[float, Callable[[], float]]] = {
        "fp32 against a CPU": (
            LARGEST_DIFFERENCE,
            with_ours(lambda: _trained(replace(sizes, device="cpu"), FEW_LANES)),
        ),
        "the same run again": (0.0, with_ours(lambda: _trained(sizes, FEW_LANES))),
        f"{FEW_LANES} lanes against the same ones among {MANY_LANES}": (
            0.0,
            with_ours(lambda: _trained(sizes, MANY_LANES)),
        ),
    }
    if sizes.device != "cpu":
        rounded = replace(sizes, precision="bf16")
        found["bf16 against fp32"] = (LARGEST_BF16_DIFFERENCE, with_ours(lambda: _trained(rounded, FEW_LANES)))
    return {**found, "with CUDA graphs against without": (0.0, with_graphs)}


def _checked(family: str, what: str, bound: float, compare: Callable[[], float], until: float) -> Check:
    if time.perf_counter() > until:
        return Check(family, what, None, bound, NO_TIME)
    try:
        value = compare()
    except Exception as error:  # whatever a device that was never tried may raise
        return Check(family, what, None, bound, in_a_line(error))
    if not math.isfinite(value):
        return Check(family, what, None, bound, "the difference is not a finite number")
    return Check(family, what, value, bound)


def _trained(sizes: Sizes, n_lanes: int, n_steps: int = CHECK_STEPS, kind: type[SweepRow] | None = None) -> Trained:
    """Weights of all lanes before and after a few steps; the first lanes are the same for any number of lanes."""
    row = (kind or SweepRow)(Workload.of_random_features(sizes, SHAPE), n_lanes)
    start = row.state()
    for _ in range(n_steps):
        row.step()
    return start, row.state()


def _difference(start: Weights, ours: Weights, theirs: Sequence[Mapping[str, Tensor]]) -> float:
    """The largest difference over lanes; not a number if that of any lane is not."""
    of_lanes = [distance(a, b) / distance(a, before) for a, b, before in zip(ours, theirs, start, strict=True)]
    return math.nan if any(map(math.isnan, of_lanes)) else max(of_lanes)
