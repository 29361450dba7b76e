"""LayerNorm and MLP of a ladder's rung in compiled tasks, forward and backward.

    norm    LN(h)
    MLP     h + W_d gelu(W_u LN(h) + b_u) + b_d

A task works on the columns of one lane's `h`, in blocks of `BLOCK` columns. The intermediate results of a block fit
into the processor's nearest cache. The backward pass computes them again from `h`, so only `h` has to be kept.

A lane's channels beyond its own rank are padding. They are zero, and so are their gradients. A task only uses numbers
of its own lane, in an order that depends on shapes alone. So a lane gets the same bits in any stack.
"""

from typing import Any

import numpy as np

from sweep.side_networks.cpu.compile import compiled
from sweep.side_networks.cpu.products import OUTER_GROUP, add_outer, add_product
from sweep.side_networks.cpu.vector_math import add_scaled, add_totals, exp, fma, maximum, where_negative
from sweep.side_networks.cpu.vectors import VECTOR, divisor, load, loads, splat, store, zeros

BLOCK = 64
"""Number of columns in a block; a multiple of `ladder_rows.COLUMNS`."""

ROWS_AT_ONCE = (0, 0, 0, 0)
"""A tuple with one entry for each row of a product that is kept in registers; its length divides every padded rank."""

_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_DENSITY = np.float32(0.3989422804014327)  # 1 / sqrt(2 pi)
_P = np.float32(0.3275911 / 2**0.5)
_A1, _A2, _A3 = np.float32(0.254829592), np.float32(-0.284496736), np.float32(1.421413741)
_A4, _A5 = np.float32(-1.453152027), np.float32(1.061405429)


@compiled
def _tail(size: Any, density: Any) -> Any:
    """`Φ(-size)` for `size ≥ 0`, from `exp(-size²/2)`, to 1e-7 (Abramowitz and Stegun, 7.1.26)."""
    t = splat(_ONE) / fma(size, splat(_P), splat(_ONE))
    value = fma(splat(_A5), t, splat(_A4))
    value = fma(value, t, splat(_A3))
    value = fma(value, t, splat(_A2))
    value = fma(value, t, splat(_A1))
    return value * t * splat(_HALF) * density


@compiled
def _gelu(a: Any, n: int) -> None:
    """GELU of the first `n` numbers, in place; `n` is a multiple of `VECTOR`."""
    zero = splat(_ZERO)
    for i in range(0, n, VECTOR):
        u = load(a, i)
        size = maximum(u, zero - u)
        tail = _tail(size, exp(zero - splat(_HALF) * u * u))
        store(a, i, maximum(u, zero) - size * tail)


@compiled
def _gelu_and_slope(a: Any, slopes: Any, n: int) -> None:
    """GELU of the first `n` numbers, in place, and its derivative in `slopes`."""
    zero, one = splat(_ZERO), splat(_ONE)
    for i in range(0, n, VECTOR):
        u = load(a, i)
        size = maximum(u, zero - u)
        density = exp(zero - splat(_HALF) * u * u)
        tail = _tail(size, density)
        store(a, i, maximum(u, zero) - size * tail)
        store(slopes, i, fma(u * density, splat(_DENSITY), where_negative(u, tail, one - tail)))


@compiled
def _normalise(
    h: Any, first: int, row: int, rank: int, padded: int, eps: Any, width: int, normal: Any, inverse: Any
) -> None:
    """LayerNorm over rows, without its weights: `normal`, rows `width` apart, and `inverse`, `1/sqrt(variance + eps)`.

    `h` has `padded` rows, `row` numbers apart, from `first` on; `rank` of them are the lane's own.
    """
    share = splat(_ONE / np.float32(rank))
    for t in range(0, width, VECTOR):
        total = splat(_ZERO)
        for c in range(rank):
            total = total + load(h, first + c * row + t)
        mean, square = total * share, splat(_ZERO)
        for c in range(rank):
            centred = load(h, first + c * row + t) - mean
            store(normal, c * width + t, centred)
            square = fma(centred, centred, square)
        store(inverse, t, square * share)
    for i in range(width):
        inverse[i] = _ONE / np.sqrt(inverse[i] + eps)
    for c in range(rank):
        for t in range(0, width, VECTOR):
            store(normal, c * width + t, load(normal, c * width + t) * load(inverse, t))
    for i in range(rank * width, padded * width):
        normal[i] = _ZERO


@compiled
def _scaled(normal: Any, weight: Any, bias: Any, first: int, rows: int, width: int, x: Any) -> None:
    """`x = normal · weight + bias`, row by row."""
    for c in range(rows):
        w, b = splat(weight[first + c]), splat(bias[first + c])
        for t in range(0, width, VECTOR):
            store(x, c * width + t, fma(load(normal, c * width + t), w, b))


@compiled
def _filled(bias: Any, first: int, rows: int, width: int, x: Any) -> None:
    """Fill every row of `x` with its bias."""
    for c in range(rows):
        b = splat(bias[first + c])
        for t in range(0, width, VECTOR):
            store(x, c * width + t, b)


@compiled
def _add_row_sums(group: Any, out: Any, first: int, x: Any, rows: int, width: int) -> None:
    """`out[c] += Σ_t x[c, t]`."""
    H = len(group)
    one = splat(_ONE)
    for c in range(0, rows, H):
        tiles = zeros(group, VECTOR)
        for t in range(0, width, VECTOR):
            tiles = add_scaled(tiles, loads(x, c * width + t, width, group, VECTOR), one)
        add_totals(out, first + c, 1, tiles)


@compiled
def _add_norm_gradients(
    group: Any, d_weight: Any, d_bias: Any, first: int, d_x: Any, normal: Any, rows: int, width: int, scratch: Any
) -> None:
    """Add the gradients of a norm's weight and bias, from the gradient of its result."""
    _add_row_sums(group, d_bias, first, d_x, rows, width)
    for i in range(0, rows * width, VECTOR):
        store(scratch, i, load(d_x, i) * load(normal, i))
    _add_row_sums(group, d_weight, first, scratch, rows, width)


@compiled
def _gradient_of_norm(
    d_x: Any, normal: Any, inverse: Any, weight: Any, first: int, rank: int, rows: int, width: int
) -> None:
    """Turn the gradient of `normal · weight + bias` into the gradient of the norm's input, in place."""
    share = splat(_ONE / np.float32(rank))
    for t in range(0, width, VECTOR):
        of_mean, of_spread = splat(_ZERO), splat(_ZERO)
        for c in range(rank):
            weighted = splat(weight[first + c]) * load(d_x, c * width + t)
            store(d_x, c * width + t, weighted)
            of_mean = of_mean + weighted
            of_spread = fma(weighted, load(normal, c * width + t), of_spread)
        of_mean, of_spread = of_mean * share, of_spread * share
        scale = load(inverse, t)
        for c in range(rank):
            at = c * width + t
            store(d_x, at, (load(d_x, at) - of_mean - of_spread * load(normal, at)) * scale)
        for c in range(rank, rows):
            store(d_x, c * width + t, splat(_ZERO))


@compiled
def _copy(source: Any, first: int, row: int, rows: int, width: int, x: Any) -> None:
    """Copy rows of `width` numbers that are `row` numbers apart, so that they follow one another."""
    for c in range(rows):
        for t in range(0, width, VECTOR):
            store(x, c * width + t, load(source, first + c * row + t))


@compiled
def norm_forward(
    group: Any, first_task: int, last_task: int, h: Any, ranks: Any, weight: Any, bias: Any, eps: Any, out: Any
) -> None:
    """Forward pass of only the norm; arguments as `mlp_forward`."""
    _, R, T = h.shape
    n_blocks = (T + BLOCK - 1) // BLOCK
    normal, inverse = np.empty(R * BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for task in range(first_task, last_task):
        n, start = task // n_blocks, task % n_blocks * BLOCK
        width, first = min(BLOCK, T - start), n * R * T + start
        _normalise(h, first, T, ranks[n], R, eps, width, normal, inverse)
        for c in range(R):
            w, b = splat(weight[n, c]), splat(bias[n, c])
            for t in range(0, width, VECTOR):
                store(out, first + c * T + t, fma(load(normal, c * width + t), w, b))


@compiled
def norm_backward(
    group: Any,
    first_task: int,
    last_task: int,
    h: Any,
    ranks: Any,
    weight: Any,
    eps: Any,
    d_out: Any,
    d_h: Any,
    d_weight: Any,
    d_bias: Any,
) -> None:
    """Backward pass of only the norm; arguments as `mlp_backward`."""
    _, R, T = h.shape
    G = d_weight.shape[1]
    normal, d_x = np.empty(R * BLOCK, np.float32), np.empty(R * BLOCK, np.float32)
    x, inverse = np.empty(R * BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for task in range(first_task, last_task):
        n, g = task // G, task % G
        for start in range(g * BLOCK, T, G * BLOCK):
            width, first = min(BLOCK, T - start), n * R * T + start
            _copy(d_out, first, T, R, width, d_x)
            _normalise(h, first, T, ranks[n], R, eps, width, normal, inverse)
            _add_norm_gradients(group, d_weight, d_bias, task * R, d_x, normal, R, width, x)
            _gradient_of_norm(d_x, normal, inverse, weight.ravel(), n * R, ranks[n], R, width)
            for c in range(R):
                for t in range(0, width, VECTOR):
                    store(d_h, first + c * T + t, load(d_x, c * width + t))


@compiled
def mlp_forward(
    group: Any,
    first_task: int,
    last_task: int,
    h: Any,
    ranks: Any,
    norm_weight: Any,
    norm_bias: Any,
    up: Any,
    up_bias: Any,
    down: Any,
    down_bias: Any,
    eps: Any,
    out: Any,
) -> None:
    """Forward pass of some tasks.

    Args, the arrays contiguous and, but for `ranks`, float32:
        group: `ROWS_AT_ONCE`.
        first_task, last_task: Task `i` is block `i % blocks` of lane `i // blocks`.
        h: `(N, r, T)`, `T` a multiple of `ladder_rows.COLUMNS`.
        ranks: Rank of every lane, `(N,)`.
        norm_weight, norm_bias: `(N, r)`.
        up, up_bias: `W_u`, `(N, 2r, r)`, and `b_u`, `(N, 2r)`.
        down, down_bias: `W_d`, `(N, r, 2r)`, and `b_d`, `(N, r)`.
        eps: Constant `eps` of the LayerNorm.
        out: Written, `(N, r, T)`.
    """
    _, R, T = h.shape
    inner = up.shape[1]
    n_blocks = (T + BLOCK - 1) // BLOCK
    normal, x = np.empty(R * BLOCK, np.float32), np.empty(R * BLOCK, np.float32)
    u, inverse = np.empty(inner * BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for task in range(first_task, last_task):
        n, start = task // n_blocks, task % n_blocks * BLOCK
        width, first = min(BLOCK, T - start), n * R * T + start
        _normalise(h, first, T, ranks[n], R, eps, width, normal, inverse)
        _scaled(normal, norm_weight.ravel(), norm_bias.ravel(), n * R, R, width, x)
        _filled(up_bias.ravel(), n * inner, inner, width, u)
        add_product(group, u, 0, inner, up, n * inner * R, R, 1, x, R, width)
        _gelu(u, inner * width)
        _filled(down_bias.ravel(), n * R, R, width, x)
        add_product(group, x, 0, R, down, n * R * inner, inner, 1, u, inner, width)
        for c in range(R):
            for t in range(0, width, VECTOR):
                at = first + c * T + t
                store(out, at, load(h, at) + load(x, c * width + t))


@compiled
def mlp_backward(
    group: Any,
    first_task: int,
    last_task: int,
    h: Any,
    ranks: Any,
    norm_weight: Any,
    norm_bias: Any,
    up: Any,
    up_bias: Any,
    down: Any,
    eps: Any,
    d_out: Any,
    d_h: Any,
    d_norm_weight: Any,
    d_norm_bias: Any,
    d_up: Any,
    d_up_bias: Any,
    d_down: Any,
    d_down_bias: Any,
) -> None:
    """Backward pass of some tasks, where `G` groups of blocks have partial sums of their own.

    Args, beside those of the forward pass:
        first_task, last_task: Task `i` is group `i % G` of lane `i // G`; its blocks are every `G`-th.
        d_out: `(N, r, T)`.
        d_h: Written, `(N, r, T)`.
        d_norm_weight, d_norm_bias, d_up, d_up_bias, d_down, d_down_bias: Added to: `(N, G, …)`, flat behind `G`.
    """
    _, R, T = h.shape
    inner, G, outer_group = up.shape[1], d_up.shape[1], divisor(group, 1, OUTER_GROUP)
    normal, x = np.empty(R * BLOCK, np.float32), np.empty(R * BLOCK, np.float32)
    grad, d_x = np.empty(R * BLOCK, np.float32), np.empty(R * BLOCK, np.float32)
    u, d_u = np.empty(inner * BLOCK, np.float32), np.empty(inner * BLOCK, np.float32)
    slopes, inverse = np.empty(inner * BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for task in range(first_task, last_task):
        n, g = task // G, task % G
        for start in range(g * BLOCK, T, G * BLOCK):
            width, first = min(BLOCK, T - start), n * R * T + start
            _copy(d_out, first, T, R, width, grad)
            _normalise(h, first, T, ranks[n], R, eps, width, normal, inverse)
            _scaled(normal, norm_weight.ravel(), norm_bias.ravel(), n * R, R, width, x)
            _filled(up_bias.ravel(), n * inner, inner, width, u)
            add_product(group, u, 0, inner, up, n * inner * R, R, 1, x, R, width)
            _gelu_and_slope(u, slopes, inner * width)

            add_outer(outer_group, d_down, task * R * inner, inner, grad, 0, R, u, inner, width)
            _add_row_sums(group, d_down_bias, task * R, grad, R, width)
            d_u[: inner * width] = _ZERO
            add_product(group, d_u, 0, inner, down, n * R * inner, 1, inner, grad, R, width)
            for i in range(0, inner * width, VECTOR):
                store(d_u, i, load(d_u, i) * load(slopes, i))
            add_outer(outer_group, d_up, task * inner * R, R, d_u, 0, inner, x, R, width)
            _add_row_sums(group, d_up_bias, task * inner, d_u, inner, width)
            d_x[: R * width] = _ZERO
            add_product(group, d_x, 0, R, up, n * inner * R, 1, R, d_u, inner, width)

            _add_norm_gradients(group, d_norm_weight, d_norm_bias, task * R, d_x, normal, R, width, x)
            _gradient_of_norm(d_x, normal, inverse, norm_weight.ravel(), n * R, ranks[n], R, width)
            for c in range(R):
                for t in range(0, width, VECTOR):
                    store(d_h, first + c * T + t, load(d_x, c * width + t) + load(grad, c * width + t))
