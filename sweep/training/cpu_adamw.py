"""AdamW's update in one pass over memory, compiled for the CPU. PyTorch's operations need ten passes."""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled

_ONE = np.float32(1)


@compiled
def adamw_step(
    first: int,
    last: int,
    p: Any,
    grad: Any,
    mean: Any,
    square: Any,
    decay: Any,
    rate: Any,
    beta1: Any,
    beta2: Any,
    debias2: Any,
    eps: Any,
) -> None:
    """Update some lanes of a parameter and its moments, in place; see `LaneAdamW.step`.

    All arrays are float32. The rows of `p`, `grad`, `mean` and `square` are lanes, `(N, n)`, contiguous.

    Args:
        first: First lane to update.
        last: Lane after the last one to update.
        p: Parameter.
        grad: Gradient; the only matrix that is not written to.
        mean: First moment.
        square: Second moment.
        decay: Factor on the parameter for weight decay, `(N,)`.
        rate: Learning rate divided by the first moment's bias correction, `(N,)`.
        beta1: Decay of the first moment, `(N,)`.
        beta2: Decay of the second moment, `(N,)`.
        debias2: Square root of the second moment's bias correction, `(N,)`.
        eps: Term in the denominator, `(N,)`.
    """
    for n in range(first, last):
        own_decay, own_rate, own_debias, own_eps = decay[n], rate[n], debias2[n], eps[n]
        keep1, keep2, add1, add2 = beta1[n], beta2[n], _ONE - beta1[n], _ONE - beta2[n]
        for i in range(p.shape[1]):
            g = grad[n, i]
            m = keep1 * mean[n, i] + add1 * g
            v = keep2 * square[n, i] + add2 * (g * g)
            mean[n, i] = m
            square[n, i] = v
            p[n, i] = own_decay * p[n, i] - own_rate * (m / (np.sqrt(v) / own_debias + own_eps))
