"""All modules of a rank-space LAST for a whole stack of lanes, in single precision on a CPU.

This is the function of `rank_space_trunk.py` followed by pooling, in compiled tasks of one lane and image each; see
`trunk_kernels.py`. This module has the products that all lanes share, before and after the tasks.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sweep.machine.precision import write_product
from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK
from sweep.side_networks.cpu.batch import GROUPS, extents, padded
from sweep.side_networks.cpu.compile import has_kernels
from sweep.side_networks.cpu.lanes import folded
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS, pooled_streams
from sweep.side_networks.cpu.tasks import on_threads
from sweep.side_networks.cpu.trunk_kernels import trunk_backward, trunk_forward

if TYPE_CHECKING:
    from sweep.side_networks.rank_space_trunk import FrozenStreams


def is_compiled(rank: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether lanes of a rank are computed here; otherwise `rank_space_trunk.py` computes them."""
    return has_kernels(device, dtype) and rank <= MAX_UNROLLED_RANK


def pooled_trunk(
    frozen: "FrozenStreams",
    projections: Sequence[Tensor],
    biases: Sequence[Tensor],
    ups: Sequence[Tensor],
    tokens: slice,
) -> Tensor:
    """Attention outputs of all `K` modules of a lane, averaged over tokens.

    Args:
        frozen: The frozen streams; zero after the end of a text.
        projections: `W_γ`, each `(3r, D)`.
        biases: `W β`, each `(3r,)`.
        ups: `Ũ`, each `(r, D)`.
        tokens: The tokens to average over, as a slice of the tokens that a text has.

    Returns:
        `(K·r, B)`. Under `vmap` all lanes are one call.
    """
    stacked = [torch.stack(list(x)) for x in (projections, biases, ups)]
    if ups[0].shape[0] >= FEWEST_RANKS:
        return pooled_streams(frozen, tokens, *stacked)
    of_lane = (x.unsqueeze(0) for x in stacked)
    pooled: Tensor = _PooledTrunk.apply(frozen, tokens, torch.is_grad_enabled(), *of_lane)[0]
    return pooled.squeeze(0)


class _PooledTrunk(torch.autograd.Function):
    """All lanes at once.

    Inputs: the frozen streams, tokens to pool, whether a backward pass will follow, and of all lanes `W_γ`
    `(N, K, 3r, D)`, `W β` `(N, K, 3r)` and `Ũ` `(N, K, r, D)`.

    Outputs: the pooled `A`, `(N, K·r, B)`, and what the backward pass reads: `A`, `LN(x) W`,
    `1/sqrt(variance + eps)` and `log Σ exp(score)`.
    """

    @staticmethod
    def forward(
        frozen: "FrozenStreams", tokens: slice, keep: bool, projections: Tensor, biases: Tensor, ups: Tensor
    ) -> tuple[Tensor, ...]:
        N, K, r, D = ups.shape
        B, L = frozen.squares.shape[1:]
        of_batch = extents(frozen, tokens)
        streams, padded_ups = padded(frozen.centred), padded(ups)
        mixing = torch.bmm(projections.flatten(1, 2), ups.flatten(1, 2).mT)
        rows_of_modules = projections.transpose(0, 1).contiguous().flatten(1, 2)  # (K, N·3r, D)
        pooled = ups.new_empty(N, K * r, B)
        # Without a backward pass, a part of the images at a time, so that it needs the memory of one module.
        at_once = B if keep else -(-B // K)
        for first in range(0, B, at_once):
            images = slice(first, min(first + at_once, B))
            shape = (images.stop - first, L)
            qkv, attended = ups.new_empty(K, N, 3 * r, *shape), ups.new_empty(K, N, r, *shape)
            inverse, log_sum = ups.new_empty(K, N, *shape), ups.new_empty(K, N, *shape)
            rows = slice(first * L, images.stop * L)
            for k in range(K):
                shared = frozen.entering(k)[0][:, rows]
                write_product(qkv[k].flatten(0, 1).flatten(1), rows_of_modules[k], shared)
            of_images = pooled if keep else ups.new_empty(N, K * r, shape[0])
            arrays = (
                qkv,
                attended,
                inverse,
                log_sum,
                streams[:, rows].contiguous().unflatten(1, shape),
                frozen.squares[:, images].contiguous(),
                biases,
                padded_ups,
                mixing,
            )
            sizes = (np.float32(D), np.float32(frozen.eps), *(x[images].numpy() for x in of_batch), frozen.causal)
            _run(trunk_forward, r, N * shape[0], *(x.numpy() for x in arrays), *sizes, of_images.numpy())
            pooled[:, :, images] = of_images
        return pooled, attended, qkv, inverse, log_sum

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.frozen, ctx.tokens, _, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:], *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        attended, qkv, inverse, log_sum, projections, biases, ups = ctx.saved_tensors
        frozen = ctx.frozen
        N, K, r, D = ups.shape
        B, L = frozen.squares.shape[1:]
        streams, padded_ups = padded(frozen.centred), padded(ups)
        rows, ups_of_lanes = projections.flatten(1, 2), ups.flatten(1, 2)  # (N, K·3r, D), (N, K·r, D)
        mixing, gram = torch.bmm(rows, ups_of_lanes.mT), torch.bmm(ups_of_lanes, ups_of_lanes.mT)
        groups = min(GROUPS, B)
        d_biases = ups.new_zeros(groups, *biases.shape)
        d_ups = ups.new_zeros(groups, *padded_ups.shape)
        d_mixing, d_gram = ups.new_zeros(groups, *mixing.shape), ups.new_zeros(groups, *gram.shape)
        before = (qkv, attended, inverse, log_sum, streams.unflatten(1, (B, L)), biases, padded_ups, mixing, gram)
        of_images = (*(x.numpy() for x in extents(frozen, ctx.tokens)), frozen.causal)
        after = (grads[0].contiguous(), d_biases, d_ups, d_mixing, d_gram)
        torch.autograd.graph.increment_version(qkv)  # the gradients overwrite it: a second backward pass fails
        arguments = (*(x.numpy() for x in before), np.float32(D), *of_images, *(x.numpy() for x in after))
        for step in range(-(-B // groups)):  # a group's images one after another: their gradients are one sum
            _run(trunk_backward, r, groups * N, step, *arguments)

        d_projections = torch.empty_like(projections)
        of_module = ups.new_empty(N, 3 * r, D)
        for k in range(K):
            write_product(of_module.flatten(0, 1), qkv[k].flatten(0, 1).flatten(1), frozen.entering(k)[0].T)
            d_projections[:, k] = of_module
        d_mix, d_squares = d_mixing.sum(0), d_gram.sum(0)
        d_projections.flatten(1, 2).baddbmm_(d_mix, ups_of_lanes)
        total = d_ups.sum(0)[..., :D].flatten(1, 2)
        # The squares of both halves of a pair, but of a module with itself once.
        total = total.baddbmm(d_squares + d_squares.mT * (1 - torch.kron(torch.eye(K), torch.ones(r, r))), ups_of_lanes)
        total.baddbmm_(d_mix.mT, rows)
        return None, None, None, d_projections, d_biases.sum(0), total.view_as(ups)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        frozen, tokens, keep, *tensors = inputs
        lanes = info.batch_size
        pooled, *kept = _PooledTrunk.apply(frozen, tokens, keep, *folded(lanes, in_dims[3:], tensors))
        return (pooled.unflatten(0, (lanes, -1)), *kept), (0, *(None for _ in kept))


def _run(kernel: Callable[..., None], rank: int, n_tasks: int, *arguments: Any) -> None:
    """Run a kernel for modules of a rank on several threads."""
    on_threads(lambda first, last: kernel((0,) * rank, first, last, *arguments), n_tasks)
