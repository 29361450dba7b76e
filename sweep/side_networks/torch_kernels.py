"""The operations of rank space other than matrix products, in plain PyTorch: for GPUs, fp64 and high ranks.

Shapes: `N` lanes, `B` images, `L` tokens, rank `r`, `K` modules. Module `k`, counted from 0, is being computed.
"""

import torch
from torch import Tensor

from sweep.side_networks.attention import attention_of_heads, attention_of_matrices


def _attention(qkv: Tensor, dtype: torch.dtype | None, bias: Tensor | None) -> Tensor:
    """`softmax(q kᵀ + bias) v`, `(N, r, B, L)`, from `(N, 3r, B, L)`. On a GPU or in another dtype, lanes are heads."""
    if qkv.device.type != "cpu" or dtype is not None:
        q, k, v = (x.permute(2, 0, 3, 1).to(dtype or x.dtype) for x in qkv.chunk(3, 1))
        heads: Tensor = attention_of_heads(q, k, v, bias).to(qkv.dtype)
        return heads.permute(1, 3, 0, 2)
    q, k, v = (x.permute(0, 2, 3, 1).flatten(0, 1) for x in qkv.chunk(3, 1))
    out: Tensor = attention_of_matrices(q, k, v, bias).unflatten(0, (len(qkv), -1))
    return out.permute(0, 3, 1, 2)


def attend(
    qkv: Tensor,
    attended: Tensor,
    first: int,
    log_sum: Tensor,
    dtype: torch.dtype | None = None,
    bias: Tensor | None = None,
) -> None:
    """Write `softmax(q kᵀ + bias) v` of every lane and image.

    Args:
        qkv: Scaled queries, keys and values, `(N, 3r, B, L)`.
        attended: Output, `(N, K·r, B, L)`; `r` rows are written.
        first: Index of the first of these rows.
        log_sum: `(N, B, L)`; may be written for the backward pass.
        dtype: Dtype that `qkv` is rounded to for the products; if not given, its own.
        bias: See `visible.py`.
    """
    rank = qkv.shape[1] // 3
    attended[:, first : first + rank] = _attention(qkv, dtype, bias)


def attend_backward(
    qkv: Tensor,
    attended: Tensor,
    d_attended: Tensor,
    first: int,
    log_sum: Tensor,
    dtype: torch.dtype | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Gradient of `attend` with respect to `qkv`, from `r` rows of `d_attended` that begin at row `first`."""
    rank = qkv.shape[1] // 3
    with torch.enable_grad():
        leaf = qkv.detach().requires_grad_()
        out = _attention(leaf, dtype, bias)
        d_qkv: Tensor = torch.autograd.grad(out, leaf, d_attended[:, first : first + rank])[0]
    return d_qkv.contiguous()


def _of_modules(attended: Tensor, n_modules: int, rank: int) -> Tensor:
    """The first modules' rows of `(N, K·r, B, L)` as `(k, N, r, B, L)`."""
    of_modules: Tensor = attended[:, : n_modules * rank].unflatten(1, (n_modules, rank)).transpose(0, 1)
    return of_modules


def normalise(
    qkv: Tensor,
    attended: Tensor,
    products: Tensor,
    streams: Tensor,
    quadratic: Tensor,
    square: Tensor,
    bias: Tensor,
    inverse: Tensor,
    width: int,
    eps: float,
) -> None:
    """LayerNorm in rank space: the stream's variance, and the projections divided by its root.

    Args:
        qkv: `R x̃_k`, `(N, 3r, B, L)`; becomes `LN(x_k) W`.
        attended: `A`, `(N, K·r, B, L)`; the first `k·r` rows are read.
        products: `Ũ_j S̃_k` of the earlier modules, `(k, N, r, B, L)`.
        streams: `Σ_{j<k-1} Ũ_{k-1} Ũ_jᵀ A_j + ½ Ũ_{k-1} Ũ_{k-1}ᵀ A_{k-1}`, `(N, r, B, L)`; read if `k > 0`.
        quadratic: `|Σ_{j<k-1} Ũ_jᵀ A_j|²`, `(N, B, L)`; module `k − 1` is added to it.
        square: `|S̃_k|²`, `(B, L)`.
        bias: `W β`, `(N, 3r)`.
        inverse: Output: `1/sqrt(variance + eps)`, `(N, B, L)`.
        width: Width `D`.
        eps: Constant `eps` of the LayerNorm.
    """
    k, _, r, _, _ = products.shape
    if k:
        quadratic += 2 * (attended[:, (k - 1) * r : k * r] * streams).sum(1)
    variance = square + 2 * (_of_modules(attended, k, r) * products).sum((0, 2)) + quadratic
    torch.rsqrt(variance / width + eps, out=inverse)
    qkv.mul_(inverse.unsqueeze(1)).add_(bias[:, :, None, None])


def normalise_backward(
    d_qkv: Tensor,
    qkv: Tensor,
    attended: Tensor,
    d_attended: Tensor,
    products: Tensor,
    streams: Tensor,
    d_quadratic: Tensor,
    bias: Tensor,
    inverse: Tensor,
    width: int,
    d_products: Tensor,
    d_streams: Tensor,
) -> Tensor:
    """Gradients of `normalise`.

    Args:
        d_qkv: Gradient with respect to the result, `(N, 3r, B, L)`; becomes the gradient with respect to `R x̃_k`.
        qkv: The result of `normalise`.
        attended: As in `normalise`.
        d_attended: `(N, K·r, B, L)`; the gradient through the variance is added.
        products: As in `normalise`.
        streams: As in `normalise`.
        d_quadratic: `(N, B, L)`, from the later modules; this module's gradient is added.
        bias: As in `normalise`.
        inverse: The `inverse` that `normalise` wrote.
        width: Width `D`.
        d_products: Output, `(k, N, r, B, L)`.
        d_streams: Output if `k > 0`, `(N, r, B, L)`.

    Returns:
        Gradient with respect to `bias`, `(N, 3r)`.
    """
    k, _, r, _, _ = products.shape
    d_bias = d_qkv.sum((2, 3))
    d_square = (d_qkv * (qkv - bias[:, :, None, None])).sum(1) * inverse.square() * (-0.5 / width)
    d_qkv.mul_(inverse.unsqueeze(1))
    d_quadratic += d_square
    if k:
        last = slice((k - 1) * r, k * r)
        d_added = 2 * d_square.unsqueeze(1)
        torch.mul(_of_modules(attended, k, r), d_added, out=d_products)
        _of_modules(d_attended, k, r).add_(d_added * products)
        torch.mul(2 * d_quadratic.unsqueeze(1), attended[:, last], out=d_streams)
        d_attended[:, last] += 2 * d_quadratic.unsqueeze(1) * streams
    return d_bias
