"""AdamW's update in one pass over memory, compiled for a CPU; made of PyTorch's operations it takes ten."""

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
    """Update some lanes of a parameter and its moments, as `LaneAdamW.step` says.

    Args, all float32:
        first, last: Lanes from `first` up to `last`.
        p, grad, mean, square: `(N, …)` as rows, contiguous; all but `grad` are written.
        decay: What the parameter is multiplied by first, `(N,)`.
        rate: Learning rate over the first moment's bias correction, `(N,)`.
        beta1, beta2, eps: `(N,)`.
        debias2: Root of the second moment's bias correction, `(N,)`.
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
