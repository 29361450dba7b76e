"""Does a device train what a CPU trains? The checks that come before any timing on a GPU."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

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

Weights = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Check:
    """One comparison of trained weights.

    Attributes:
        side_network: Family of the lanes.
        what: What was compared.
        value: The largest distance over lanes, relative to the distance that training moved them.
        bound: The largest value that is accepted.
    """

    side_network: str
    what: str
    value: float
    bound: float

    @property
    def kept(self) -> bool:
        """Whether the value is within its bound; NaN is not."""
        return self.value <= self.bound


def run_checks(device: str, say: Callable[[str], None]) -> list[Check]:
    """Train the same lanes in several ways, and compare their weights.

    Args:
        device: PyTorch's name of the device.
        say: Called with every result.
    """
    families: dict[str, Sizes] = {
        "last": Sizes(group_size=3, device=device, n_parallel=MANY_LANES),
        "ladder": Sizes(**LADDER_SIZES, device=device, n_parallel=MANY_LANES),
    }
    checks = []
    for family, sizes in families.items():
        start, ours = _trained(sizes, FEW_LANES)
        many = _trained(sizes, MANY_LANES)[1][:FEW_LANES]
        compared = {
            "fp32 against a CPU": (_trained(replace(sizes, device="cpu"), FEW_LANES)[1], LARGEST_DIFFERENCE),
            "the same run again": (_trained(sizes, FEW_LANES)[1], 0.0),
            f"{FEW_LANES} lanes against the same ones among {MANY_LANES}": (many, 0.0),
        }
        if device != "cpu":
            rounded = _trained(replace(sizes, precision="bf16"), FEW_LANES)[1]
            compared["bf16 against fp32"] = (rounded, LARGEST_BF16_DIFFERENCE)
        found = [Check(family, what, _difference(start, ours, w), bound) for what, (w, bound) in compared.items()]
        found.append(_check_of_graphs(family, sizes))
        for check in found:
            kept = "within" if check.kept else "ABOVE"
            say(f"{family}, {check.what}: {check.value:.2g}, {kept} its bound of {check.bound:g}")
        checks += found
    return checks


def _check_of_graphs(family: str, sizes: Sizes) -> Check:
    """A step that CUDA replays against the same step without; NaN, which is not kept, if it cannot be recorded."""
    steps = WARM_UP_STEPS + CHECK_STEPS
    start, ours = _trained(sizes, FEW_LANES, steps)
    try:
        value = _difference(start, ours, _trained(sizes, FEW_LANES, steps, GraphedRow)[1])
    except RuntimeError:
        value = math.nan
    return Check(family, "with CUDA graphs against without", value, 0.0)


def _trained(
    sizes: Sizes, n_lanes: int, n_steps: int = CHECK_STEPS, kind: type[SweepRow] | None = None
) -> tuple[Weights, Weights]:
    """Weights of all lanes before and after a few steps; the first lanes are the same for any number of lanes."""
    row = (kind or SweepRow)(Workload.of_random_features(sizes, SHAPE), n_lanes)
    start = row.state()
    for _ in range(n_steps):
        row.step()
    return start, row.state()


def _difference(start: Weights, ours: Weights, theirs: Sequence[Mapping[str, Tensor]]) -> float:
    return max(distance(a, b) / distance(a, before) for a, b, before in zip(ours, theirs, start, strict=True))
