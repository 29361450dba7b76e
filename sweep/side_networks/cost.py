"""What training costs, in multiply-adds: which form of LAST costs less, and what a lane adds to its stack.

Nothing here is measured on the machine at hand: the model decides which lanes train together, and a study must train
the same numbers on every machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK

Form = Literal["rank space", "direct", "shared products"]
"""How a stack computes: LAST in one of the first two; another family as it is defined, or with shared products."""

ELEMENTWISE_WORK = 1000
"""The direct form's passes over its residual stream, as multiply-adds per module and element.

Fitted to stacks of 8 lanes of 32 images at 384 x 12 modules on two CPU cores. Measured there, with 65 tokens, compiled
rank space is 1.3 times as fast at rank 32 and 0.85 times at rank 48, where the model has 1.1; with twice the width and
197 tokens it is 2.6 times as fast at rank 64, where the model has 1.1.
"""


def work_per_token(width: int, rank: int, n_modules: int) -> dict[Form, int]:
    """Multiply-adds of a training step per token and lane in either form, by an analytic model of a CPU.

    Up to rank `MAX_UNROLLED_RANK` a module multiplies `3r` rows with the frozen stream, forward and for the weights'
    gradient, and its compiled kernels `r + 2` and `2r + 1` rows, which cost twice as much. Above it the `r` rows of
    every module before are multiplied with the stream instead. Either mixes `4r` rows of the modules before.

    Args:
        width: `D`.
        rank: `r`.
        n_modules: `K`.
    """
    pairs = n_modules * (n_modules - 1) // 2
    if rank <= MAX_UNROLLED_RANK:
        products = width * n_modules * (24 * rank + 12)
    else:
        products = 4 * width * rank * (3 * n_modules + pairs)
    return {
        "rank space": products + 24 * rank**2 * pairs,
        "direct": 24 * width * rank * n_modules + ELEMENTWISE_WORK * width * n_modules,
    }


def pyramid_work_per_token(module_widths: Sequence[int], rank: int) -> dict[Form, int]:
    """As `work_per_token`, of a `PyramidLAST`: every module in plain PyTorch on a stream of its own width.

    Args:
        module_widths: `D` of the stream that each module reads.
        rank: `r`.
    """
    rank_space = sum(4 * width * rank * (3 + k) + 24 * rank**2 * k for k, width in enumerate(module_widths))
    direct = sum(24 * width * rank + ELEMENTWISE_WORK * width for width in module_widths)
    changes = [k for k in range(1, len(module_widths)) if module_widths[k] != module_widths[k - 1]]
    direct += sum(6 * rank * module_widths[k] * k for k in changes)  # of the modules before into a new width
    return {"rank space": rank_space, "direct": direct}


def cheaper_form(work: Mapping[Form, int]) -> Form:
    """The form with less work; rank space if they are equal.

    A model and not a measurement decides, so that the same study trains the same numbers on every machine.
    """
    return "direct" if work["direct"] < work["rank space"] else "rank space"


SCORE_WORK = 500
"""What an attention score costs beside its products, in multiply-adds: exponentials and sums, forward and backward."""

FEATURE_WORK = 300
"""What a stack does with one stored number of a frozen stage, in multiply-adds, however many lanes it has: read it,
widen it, centre it, send it to the processor.

Both are fitted to one thread's processor time of stacks of 2 to 16 lanes, ranks 2 to 32, at 384 x 4 and 12 modules and
65 tokens; the model is within a factor of two there.
"""

WORTHWHILE_SHARE = 0.25
"""A stack has enough lanes when what its lanes share adds at most this share to what each of them costs."""

BUCKETED_LANES = 16
"""Lanes that rank buckets are chosen for: half of what `--n-parallel 32` has, because rungs thin stacks out."""


def enough_lanes(stack_work: float, lane_work: float) -> int:
    """Lanes from which on another one makes its stack's lanes hardly cheaper."""
    return max(2, math.ceil(stack_work / (WORTHWHILE_SHARE * lane_work)))


def rank_buckets(counts: Mapping[int, int], stack_work: float, lane_work: Callable[[int], float]) -> tuple[int, ...]:
    """Group ranks so that padding costs less than splitting: the cheapest grouping of neighbours.

    Args:
        counts: How often each rank is drawn; at least one.
        stack_work: What a stack costs without lanes.
        lane_work: What a lane costs that is padded to a rank.

    Returns:
        The largest rank of every group, in ascending order.
    """
    ranks = sorted(counts)
    lanes_a_draw = BUCKETED_LANES / sum(counts.values())
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]  # for the first so many ranks
    for end in range(1, len(ranks) + 1):
        options = []
        for start in range(end):
            n_lanes = lanes_a_draw * sum(counts[rank] for rank in ranks[start:end])
            cost, edges = best[start]
            options.append((cost + stack_work + n_lanes * lane_work(ranks[end - 1]), (*edges, ranks[end - 1])))
        best.append(min(options))
    return best[-1][1]
