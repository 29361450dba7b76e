"""All modules of a rank-space LAST for a whole stack of lanes, with an explicit backward pass.

Read `rank_space.py` first: it explains the mathematics and the names. The rows of all lanes are stacked, so that every
product with a frozen stream is one matrix product. Tokens are in the last dimension.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor

from backbones.stages import lengths_of
from sweep.machine.precision import add_product, write_product
from sweep.side_networks import bf16_kernels, torch_kernels
from sweep.side_networks.visible import attention_bias


@dataclass(frozen=True)
class FrozenStreams:
    """The frozen streams that all lanes share.

    Attributes:
        centred: `S̃` of every block, `(m, B·L, D)`, in the precision of products.
        squares: `|S̃|²` of every token, `(m, B, L)`.
        modules_per_block: Modules per block, `T`.
        eps: Constant `eps` of every LayerNorm.
        lengths: Number of tokens of every text, `(B,)`; None for images.
        causal: Whether a token only attends to itself and earlier tokens.
    """

    centred: Tensor
    squares: Tensor
    modules_per_block: int
    eps: float
    lengths: Tensor | None = None
    causal: bool = False

    @classmethod
    def of(
        cls,
        stages: Sequence[Tensor],
        *,
        modules_per_block: int,
        eps: float,
        dtype: torch.dtype | None = None,
        causal: bool = False,
    ) -> Self:
        """The streams of stages `z_0 … z_m`, each `(B, L, D)`. If `dtype` is given, `S̃` is rounded to it at the end."""
        stream = stages[0].clone()
        centred = stream.new_empty(len(stages) - 1, *stream.shape)
        squares = stream.new_empty(centred.shape[:-1])
        for i, stage in enumerate(stages[1:]):
            stream += stage
            torch.sub(stream, stream.mean(-1, keepdim=True), out=centred[i])
            torch.linalg.vector_norm(centred[i], dim=-1, out=squares[i])
        centred = centred.flatten(1, 2).to(dtype or stream.dtype)
        return cls(centred, squares.square_(), modules_per_block, eps, lengths_of(stages), causal)

    def bias(self) -> Tensor | None:
        """The bias that is added to the scores, see `visible.py`."""
        return attention_bias(self.squares[0], self.lengths, causal=self.causal)

    def entering(self, module: int) -> tuple[Tensor, Tensor]:
        """`S̃ᵀ`, `(D, B·L)`, and `|S̃|²`, `(B, L)`, that enter a module."""
        block = module // self.modules_per_block
        return self.centred[block].T, self.squares[block]


def trunk(
    frozen: FrozenStreams, projections: Sequence[Tensor], biases: Sequence[Tensor], ups: Sequence[Tensor]
) -> Tensor:
    """Attention outputs of all `K` modules of a lane.

    Args:
        frozen: The frozen streams.
        projections: `W_γ`, each `(3r, D)`.
        biases: `W β`, each `(3r,)`.
        ups: `Ũ`, each `(r, D)`.

    Returns:
        `A`, `(K·r, B, L)`. Under `vmap` all lanes are one call.
    """
    lanes = (x.unsqueeze(0) for x in (*projections, *biases, *ups))
    attended: Tensor = _Trunk.apply(frozen, torch.is_grad_enabled(), *lanes)[0]
    return attended.squeeze(0)


class _Lanes:
    """The trunk's inputs for all lanes, and the buffers of one pass.

    Args:
        frozen: The frozen streams, which all lanes share.
        tensors: `K` projections `(N, 3r, D)`, `K` biases `(N, 3r)`, `K` centred up-projections `(N, r, D)`.
    """

    def __init__(self, frozen: FrozenStreams, tensors: Sequence[Tensor]):
        self.frozen = frozen
        self.n_modules = len(tensors) // 3
        self.projections = tensors[: self.n_modules]
        self.biases = tensors[self.n_modules : 2 * self.n_modules]
        ups = tensors[2 * self.n_modules :]
        self.n_lanes, self.rank, self.width = ups[0].shape
        self.grid = frozen.squares[0].shape
        self.ups = torch.stack(list(ups))  # (K, N, r, D): stacked for products with S̃
        self.ups_of_lanes = torch.cat(list(ups), 1)  # (N, K·r, D): lane by lane for products with A
        rounded = frozen.centred.dtype == torch.bfloat16
        self.bias = frozen.bias()
        self.kernels: ModuleType = bf16_kernels if rounded else torch_kernels

    def empty(self, *shape: int) -> Tensor:
        """An uninitialised buffer for `(…, B, L)`."""
        return self.ups.new_empty(*shape, *self.grid)

    def mixing(self, k: int) -> tuple[Tensor, Tensor]:
        """The matrices with which module `k` reads the outputs of the modules before it.

        Returns:
            `W_γ Ũᵀ`, `(N, 3r, k·r)`, and `Ũ_{k-1} Ũᵀ`, `(N, r, k·r)`. The last block of the second, module `k − 1` with
            itself, is halved, because the square of a sum contains every pair twice, but each square once.
        """
        before = self.ups_of_lanes[:, : k * self.rank].mT
        squares = torch.bmm(self.ups[k - 1], before)
        squares[..., -self.rank :] *= 0.5
        return torch.bmm(self.projections[k], before), squares


class _Trunk(torch.autograd.Function):
    """The trunk as an autograd function.

    Inputs: the arguments of `_Lanes`, with a flag between them that says whether a backward pass will follow.
    Outputs: `A`, `(N, K·r, B, L)`, and the tensors that the backward pass reads.
    """

    @staticmethod
    def forward(frozen: FrozenStreams, keep: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        lanes = _Lanes(frozen, tensors)
        N, r, K = lanes.n_lanes, lanes.rank, lanes.n_modules
        kept = K if keep else 1
        attended = lanes.empty(N, K * r)
        qkvs, streams = lanes.empty(kept, N, 3 * r), lanes.empty(kept, N, r)
        inverses, log_sums = lanes.empty(kept, N), lanes.empty(kept, N)
        products = lanes.empty(_n_pairs(K) if keep else K, N, r)
        quadratic = lanes.empty(N).zero_()
        for k in range(K):
            shared, square = frozen.entering(k)
            slot, pairs = (k, _pairs(k)) if keep else (0, slice(k))
            qkv, stream, product = qkvs[slot], streams[slot], products[pairs]
            write_product(_rows(qkv, 2), lanes.projections[k].flatten(0, 1), shared)
            if k:
                write_product(_rows(product, 3), lanes.ups[:k].flatten(0, 2), shared)
                mixing, squares = lanes.mixing(k)
                before = attended[:, : k * r].flatten(2)
                qkv.flatten(2).baddbmm_(mixing, before)
                torch.bmm(squares, before, out=stream.flatten(2))
            lanes.kernels.normalise(
                qkv,
                attended,
                product,
                stream,
                quadratic,
                square,
                lanes.biases[k],
                inverses[slot],
                lanes.width,
                frozen.eps,
            )
            lanes.kernels.attend(qkv, attended, k * r, log_sums[slot], bias=lanes.bias)
        return attended, qkvs, streams, inverses, log_sums, products

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        frozen, _, *tensors = inputs
        ctx.frozen = frozen
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        attended, qkvs, streams, inverses, log_sums, products, *tensors = ctx.saved_tensors
        lanes = _Lanes(ctx.frozen, tensors)
        N, r, K = lanes.n_lanes, lanes.rank, lanes.n_modules
        d_attended = grads[0].clone(memory_format=torch.contiguous_format)
        d_quadratic = lanes.empty(N).zero_()
        d_stream = lanes.empty(N, r)
        d_products = lanes.empty(K, N, r)
        d_projections, d_biases = [], []
        d_ups, d_ups_of_lanes = torch.zeros_like(lanes.ups), torch.zeros_like(lanes.ups_of_lanes)
        for k in reversed(range(K)):
            shared, _ = ctx.frozen.entering(k)
            qkv, stream, product, d_product = qkvs[k], streams[k], products[_pairs(k)], d_products[:k]
            d_qkv = lanes.kernels.attend_backward(qkv, attended, d_attended, k * r, log_sums[k], bias=lanes.bias)
            d_bias = lanes.kernels.normalise_backward(
                d_qkv,
                qkv,
                attended,
                d_attended,
                product,
                stream,
                d_quadratic,
                lanes.biases[k],
                inverses[k],
                lanes.width,
                d_product,
                d_stream,
            )
            d_projection = torch.empty_like(lanes.projections[k])
            write_product(d_projection.flatten(0, 1), _rows(d_qkv, 2), shared.T)
            if k:
                add_product(d_ups[:k].flatten(0, 2), _rows(d_product, 3), shared.T)
                before, d_before = attended[:, : k * r].flatten(2), d_attended[:, : k * r].flatten(2)
                ups, d_ups_before = lanes.ups_of_lanes[:, : k * r], d_ups_of_lanes[:, : k * r]
                mixing, squares = lanes.mixing(k)
                d_before.baddbmm_(mixing.mT, d_qkv.flatten(2))
                d_before.baddbmm_(squares.mT, d_stream.flatten(2))
                d_mixing = torch.bmm(d_qkv.flatten(2), before.mT)
                d_squares = torch.bmm(d_stream.flatten(2), before.mT)
                d_squares[..., -r:] *= 0.5
                d_projection.baddbmm_(d_mixing, ups)
                d_ups_before.baddbmm_(d_mixing.mT, lanes.projections[k])
                d_ups_before.baddbmm_(d_squares.mT, lanes.ups[k - 1])
                d_ups[k - 1].baddbmm_(d_squares, ups)
            d_projections.append(d_projection)
            d_biases.append(d_bias)
        d_ups += d_ups_of_lanes.unflatten(1, (K, r)).transpose(0, 1)
        return None, None, *reversed(d_projections), *reversed(d_biases), *d_ups.unbind()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        frozen, keep, *tensors = inputs
        lanes = info.batch_size
        folded: Iterator[Tensor] = (
            (x.unsqueeze(0).expand(lanes, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1).contiguous()
            for x, dim in zip(tensors, in_dims[2:], strict=True)
        )
        attended, *kept = _Trunk.apply(frozen, keep, *folded)
        return (attended.unflatten(0, (lanes, -1)), *kept), (0, *(None for _ in kept))


def _rows(x: Tensor, n_dims: int) -> Tensor:
    """`(…, B, L)` as a matrix: the first `n_dims` dimensions are rows, and tokens are columns."""
    return x.flatten(0, n_dims - 1).flatten(1)


def _n_pairs(k: int) -> int:
    """Number of pairs of a module and an earlier one, among `k` modules."""
    return k * (k - 1) // 2


def _pairs(k: int) -> slice:
    """Positions of the products of module `k` with the modules before it."""
    return slice(_n_pairs(k), _n_pairs(k + 1))
