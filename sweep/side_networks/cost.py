"""A cost model of training, in multiply-adds: which form of LAST is cheaper, and what a lane adds to its stack.

Nothing here is measured on the machine at hand. The model decides which lanes train together, and a study must give the
same numbers on every machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS

Form = Literal["rank space", "direct", "shared products"]
"""The form in which a stack computes. LAST has the first two; other families are direct or have shared products."""

ELEMENTWISE_WORK = 1000
"""Cost of the direct form's passes over its residual stream, as multiply-adds per module and element.

It was fitted to stacks of 8 lanes of 32 images at 384 x 12 modules on two CPU cores.
"""


STREAM_WORK = 200
"""Cost of the compiled kernels' passes over a lane's own stream, as multiply-adds per module and element.

Fitted to one thread, 8 lanes of ranks 16 to 48 at 384 x 12 modules and 65 tokens.
"""


def work_per_token(width: int, rank: int, n_modules: int, *, dense: bool = False) -> dict[Form, int]:
    """Multiply-adds of a training step per token and lane in each form, by an analytic model of a CPU.

    Below rank `FEWEST_RANKS`, a module multiplies `3r` rows with the frozen stream, in the forward pass and for the
    gradient of its weights. Its compiled kernels multiply `r + 2` and `2r + 1` rows, which cost twice as much. Up to
    rank `MAX_UNROLLED_RANK`, a module has the products of the direct form and `r` rows more, and compiled passes over
    its stream. At higher ranks, the `r` rows of every earlier module are multiplied with the stream. In the first and
    the last case a module mixes `4r` rows of the earlier modules.

    Args:
        width: Backbone width `D`.
        rank: Rank `r`.
        n_modules: Number of modules `K`.
        dense: Whether the side-network answers for every token. Then no rank has kernels with a stream.
    """
    pairs = n_modules * (n_modules - 1) // 2
    direct = 24 * width * rank * n_modules + ELEMENTWISE_WORK * width * n_modules
    if FEWEST_RANKS <= rank <= MAX_UNROLLED_RANK and not dense:
        return {"rank space": width * n_modules * (26 * rank + STREAM_WORK), "direct": direct}
    if rank <= MAX_UNROLLED_RANK:
        products = width * n_modules * (24 * rank + 12)
    else:
        products = 4 * width * rank * (3 * n_modules + pairs)
    return {"rank space": products + 24 * rank**2 * pairs, "direct": direct}


def pyramid_work_per_token(module_widths: Sequence[int], rank: int) -> dict[Form, int]:
    """Like `work_per_token`, for a `PyramidLAST`: each module runs in plain PyTorch on a stream of its own width.

    Args:
        module_widths: Width `D` of the stream that each module reads.
        rank: Rank `r`.
    """
    rank_space = sum(4 * width * rank * (3 + k) + 24 * rank**2 * k for k, width in enumerate(module_widths))
    direct = sum(24 * width * rank + ELEMENTWISE_WORK * width for width in module_widths)
    changes = [k for k in range(1, len(module_widths)) if module_widths[k] != module_widths[k - 1]]
    direct += sum(6 * rank * module_widths[k] * k for k in changes)  # earlier modules projected into a new width
    return {"rank space": rank_space, "direct": direct}


def cheaper_form(work: Mapping[Form, int]) -> Form:
    """The form with less work; rank space if they are equal.

    A model decides, not a measurement, so that the same study gives the same numbers on every machine.
    """
    return "direct" if work["direct"] < work["rank space"] else "rank space"


SCORE_WORK = 500
"""Cost of an attention score beside its products, in multiply-adds: exponentials and sums, forward and backward."""

FEATURE_WORK = 300
"""Cost of one stored number of a frozen stage, in multiply-adds, whatever the number of lanes: it is read, converted to
fp32, centred and sent to the processor.

Both constants were fitted to the processor time of one thread, for stacks of 2 to 16 lanes of ranks 2 to 32 at 384 x 4
and 384 x 12 modules and 65 tokens. The model is within a factor of two there.
"""

WORTHWHILE_SHARE = 0.25
"""A stack has enough lanes if a lane's part of the shared cost is at most this share of the lane's own cost."""

BUCKETED_LANES = 16
"""Number of lanes that rank buckets are chosen for: half of `--n-parallel 32`, because rungs end lanes early."""


def enough_lanes(stack_work: float, lane_work: float) -> int:
    """Number of lanes beyond which a larger stack is hardly cheaper per lane.

    Args:
        stack_work: Cost of a stack without lanes, in multiply-adds.
        lane_work: Cost of a lane, in multiply-adds.
    """
    return max(2, math.ceil(stack_work / (WORTHWHILE_SHARE * lane_work)))


def rank_buckets(counts: Mapping[int, int], stack_work: float, lane_work: Callable[[int], float]) -> tuple[int, ...]:
    """Group ranks into buckets: the grouping with the least cost of padding and of separate stacks together.

    Args:
        counts: How often each rank is drawn; at least one rank.
        stack_work: Cost of a stack without lanes, in multiply-adds.
        lane_work: Gives the cost of a lane that is padded to a rank, in multiply-adds.

    Returns:
        The largest rank of every group, in ascending order.
    """
    ranks = sorted(counts)
    lanes_a_draw = BUCKETED_LANES / sum(counts.values())
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]  # item n is the best grouping of the first n ranks
    for end in range(1, len(ranks) + 1):
        options = []
        for start in range(end):
            n_lanes = lanes_a_draw * sum(counts[rank] for rank in ranks[start:end])
            cost, edges = best[start]
            options.append((cost + stack_work + n_lanes * lane_work(ranks[end - 1]), (*edges, ranks[end - 1])))
        best.append(min(options))
    return best[-1][1]
