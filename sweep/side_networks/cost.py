"""Which form of LAST costs less to train: the direct one, or rank space."""

from collections.abc import Mapping, Sequence
from typing import Literal

from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK

Form = Literal["rank space", "direct"]

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
