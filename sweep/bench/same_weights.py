"""Whether the rows of a benchmark that should train the same weights do."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sweep.bench.rows import ROWS, SAME_WEIGHTS, STACKED
from sweep.bench.workload import Workload

CHECK_STEPS = 4
CHECK_LANES = 2
LARGEST_DIFFERENCE = 0.01
"""The largest difference between two rows' weights that is accepted, relative to how far training moved them.

Adam divides by the size of a gradient, so rounding in a gradient near zero becomes a visible step. A difference in
method gives values near 1.
"""


def weight_difference(workload: Workload) -> float:
    """Train two configurations by every row that should give the same weights.

    Returns:
        The largest distance over lanes between a row's weights and those of `sequential_cached`, relative to the
        distance that training moved them.
    """
    sizes = replace(
        workload.sizes, n_parallel=CHECK_LANES, precision="fp32"
    )  # a difference in rounding would not be one in method
    small = replace(workload, sizes=sizes)
    lanes = range(CHECK_LANES)
    trained: dict[str, list[dict[str, torch.Tensor]]] = {}
    for name in SAME_WEIGHTS:
        build: Any = ROWS[name][1]
        if name in STACKED:
            rows = [build(small, CHECK_LANES)]
        else:
            rows = [type(build(small, 1))(small, lane) for lane in lanes]
        for row in rows:
            for _ in range(CHECK_STEPS):
                row.step()
        trained[name] = [state for row in rows for state in row.state()]
    largest = 0.0
    for lane in lanes:
        start = small.spec.lane(small.sizes.rank, small.seed_of(lane)).state_dict()
        expected = trained["sequential_cached"][lane]
        moved = distance(expected, start)
        for name in SAME_WEIGHTS:
            largest = max(largest, distance(trained[name][lane], expected) / moved)
    return largest


def distance(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> float:
    """Return the distance between two sets of weights, as the length of all their differences together."""
    return math.sqrt(sum((a[name].double() - b[name].double()).square().sum().item() for name in a))
