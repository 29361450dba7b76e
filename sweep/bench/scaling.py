"""Measure how the cost and the memory of a lane depend on the number of lanes and on every size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sweep.bench.measure import Spread, direct_lanes_that_fit, fastest_direct_lanes, time_rows
from sweep.bench.memory import peak_memory_bytes
from sweep.bench.rows import Row, SequentialCached, SweepInParts, VmapDirect
from sweep.bench.workload import Shape, Sizes, Workload
from sweep.errors import SweepError

BASE = Shape(n_stages=13, tokens=65, width=384)
"""The sizes of a ViT-S/14 at 112 px with a stage after every block."""

VARIED_LANES = 8
SLOWEST_STEP_SECONDS = 20.0


@dataclass(frozen=True)
class Point:
    """One measurement.

    Attributes:
        varied: Which of `N`, `K`, `r`, `L`, `D` this point belongs to.
        n_parallel: `N`.
        n_modules: `K`.
        rank: `r`.
        tokens: `L`.
        width: `D`.
        step_seconds: Seconds of a step of `sweep`, per configuration.
        ratio_to_vmap_direct: Seconds of a step of `vmap_direct` divided by those of `sweep`.
        ratio_to_sequential_cached: Seconds of a step of `sequential_cached` divided by those of `sweep`.
        peak_memory_bytes: Peak memory of the whole stack.
        vmap_direct_peak_memory_bytes: Peak memory of as many lanes in `vmap_direct`; None if they need too much, or if
            another size than `N` is varied.
        configs_per_hour: Configurations per hour, for the training steps alone.
    """

    varied: str
    n_parallel: int
    n_modules: int
    rank: int
    tokens: int
    width: int
    step_seconds: Spread
    ratio_to_vmap_direct: Spread
    ratio_to_sequential_cached: Spread
    peak_memory_bytes: int
    vmap_direct_peak_memory_bytes: int | None
    configs_per_hour: float


def run_scaling(sizes: Sizes, say: Callable[[str], None]) -> Iterator[Point]:
    """Double `N` until memory runs out or a step takes 20 s, then vary one size at a time with eight lanes.

    Args:
        sizes: `n_parallel` is the largest number of lanes. Backbone and image size are not used.
        say: Called with messages about the progress.

    Yields:
        Each point when it has been measured.
    """
    n_lanes = 1
    while n_lanes <= sizes.n_parallel:
        point = _try("N", replace(sizes, n_parallel=n_lanes), BASE, say)
        if point is None:
            break
        yield point
        if point.step_seconds.median * n_lanes > SLOWEST_STEP_SECONDS:
            break
        n_lanes *= 2
    for varied, rank, shape in _variations(sizes):
        point = _try(varied, replace(sizes, n_parallel=VARIED_LANES, rank=rank), shape, say)
        if point is not None:
            yield point


@dataclass(frozen=True)
class LaneMemory:
    """How much each further lane adds to the peak memory, between the fewest and the most lanes measured.

    Attributes:
        n_lanes: The most lanes measured.
        bytes_per_lane: Bytes that each further lane adds.
    """

    n_lanes: int
    bytes_per_lane: float


def memory_of_further_lanes(points: Sequence[Point]) -> dict[str, LaneMemory]:
    """Return this for the rows `sweep` and `vmap_direct`, if at least two numbers of lanes were measured.

    Args:
        points: The points of the suite in order; those that vary `N` go from the fewest lanes to the most.
    """
    of_n = [point for point in points if point.varied == "N"]
    measured = {
        "sweep": [(point.n_parallel, point.peak_memory_bytes) for point in of_n],
        "vmap_direct": [
            (point.n_parallel, point.vmap_direct_peak_memory_bytes)
            for point in of_n
            if point.vmap_direct_peak_memory_bytes is not None
        ],
    }
    further = {}
    for name, by_lanes in measured.items():
        if len(by_lanes) > 1:
            (fewest, least), (most, largest) = by_lanes[0], by_lanes[-1]
            further[name] = LaneMemory(most, (largest - least) / (most - fewest))
    return further


def _variations(sizes: Sizes) -> Iterator[tuple[str, int, Shape]]:
    for n_modules in (4, 12, 24):
        yield "K", sizes.rank, replace(BASE, n_stages=n_modules + 1)
    for rank in (2, 8, 32, 128):
        yield "r", rank, BASE
    for tokens in (17, 65, 197):
        yield "L", sizes.rank, replace(BASE, tokens=tokens)
    for width in (192, 384, 768, 1024):
        yield "D", sizes.rank, replace(BASE, width=width)


def _try(varied: str, sizes: Sizes, shape: Shape, say: Callable[[str], None]) -> Point | None:
    n_modules = shape.n_stages - 1
    label = f"N={sizes.n_parallel} K={n_modules} r={sizes.rank} L={shape.tokens} D={shape.width}"
    try:
        memory = peak_memory_bytes("sweep", sizes.n_parallel, sizes, shape)
    except SweepError as error:
        say(f"{label}: {error}")
        return None
    direct_memory = None
    if varied == "N" and sizes.n_parallel <= direct_lanes_that_fit(sizes, shape):
        try:
            direct_memory = peak_memory_bytes("vmap_direct", sizes.n_parallel, sizes, shape)
        except SweepError as error:
            say(f"{label}: {error}")
    workload = Workload.of_random_features(sizes, shape)
    rows: dict[str, Row] = {
        "sweep": SweepInParts(workload, sizes.n_parallel),
        "vmap_direct": VmapDirect(workload, fastest_direct_lanes(workload, min(sizes.n_parallel, VARIED_LANES))),
        "sequential_cached": SequentialCached(workload),
    }
    seconds = time_rows(rows, workload.device)
    ours = seconds["sweep"]

    def over_ours(name: str) -> Spread:
        return Spread.of([theirs / s for theirs, s in zip(seconds[name], ours, strict=True)])

    step = Spread.of(ours)
    say(f"{label}: {1e3 * step.median:.1f} ms per lane and step, {memory / sizes.n_parallel / 2**20:.0f} MiB per lane")
    return Point(
        varied,
        sizes.n_parallel,
        n_modules,
        sizes.rank,
        shape.tokens,
        shape.width,
        step,
        over_ours("vmap_direct"),
        over_ours("sequential_cached"),
        memory,
        direct_memory,
        3600 / (sizes.steps_per_config * step.median),
    )
