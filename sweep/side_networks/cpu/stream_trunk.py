"""All modules of LAST for a whole stack of lanes with larger ranks, in single precision on a CPU.

The function is that of `trunk.py`, in compiled tasks that keep a residual stream of their own; see
`stream_kernels.py`. This module lays out weights and streams for them.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.side_networks.cpu.batch import GROUPS, extents, padded
from sweep.side_networks.cpu.lanes import folded
from sweep.side_networks.cpu.panels import add_up_panels, pack_streams
from sweep.side_networks.cpu.stream_backward import stream_backward
from sweep.side_networks.cpu.stream_kernels import stream_forward
from sweep.side_networks.cpu.tasks import on_threads
from sweep.side_networks.cpu.vectors import VECTOR

if TYPE_CHECKING:
    from sweep.side_networks.rank_space_trunk import FrozenStreams

FEWEST_RANKS = 16
"""From this rank on, lanes are computed here."""

STREAM_FLOATS = 2**17
"""The most numbers of a stream that a task computes at a time, if that is not less than one image: half a megabyte."""


def pooled_streams(frozen: "FrozenStreams", tokens: slice, projections: Tensor, biases: Tensor, ups: Tensor) -> Tensor:
    """Attention outputs of all `K` modules of a lane, averaged over tokens.

    Args:
        frozen: The frozen streams; zero after the end of a text.
        tokens: The tokens to average over, as a slice of the tokens that a text has.
        projections: `W_γ`, `(K, 3r, D)`.
        biases: `W β`, `(K, 3r)`.
        ups: `Ũ`, `(K, r, D)`.

    Returns:
        `(K·r, B)`. Under `vmap` all lanes are one call.
    """
    r, D = ups.shape[1:]
    missing = -r % VECTOR
    if missing:
        projections = F.pad(projections.unflatten(1, (3, r)), (0, 0, 0, missing)).flatten(1, 2)
        biases = F.pad(biases.unflatten(1, (3, r)), (0, missing)).flatten(1)
        ups = F.pad(ups, (0, 0, 0, missing))
    lanes = (x.unsqueeze(0) for x in (padded(projections), biases, padded(ups)))
    pooled: Tensor = _PooledStreams.apply(frozen, tokens, torch.is_grad_enabled(), D, *lanes)[0]  # (1, K, B, R)
    return pooled[0, :, :, :r].movedim(1, 2).flatten(0, 1)


class _PooledStreams(torch.autograd.Function):
    """All lanes at once.

    Inputs: the frozen streams, tokens to pool, whether a backward pass will follow, `D` before padding, and of all
    lanes, padded: `W_γ` `(N, K, 3R, D)`, `W β` `(N, K, 3R)` and `Ũ` `(N, K, R, D)`.

    Outputs: the pooled `A`, `(N, K, B, R)`, and what the backward pass reads.
    """

    @staticmethod
    def forward(
        frozen: "FrozenStreams", tokens: slice, keep: bool, width: int, projections: Tensor, biases: Tensor, ups: Tensor
    ) -> tuple[Tensor, ...]:
        N, K, R, D = ups.shape
        B, L = frozen.squares.shape[1:]
        weights = [x.numpy() for x in (_in_panels(projections.mT), _in_panels(ups), biases)]
        streams, of_batch = padded(frozen.centred), extents(frozen, tokens)
        pooled = ups.new_empty(N, K, B, R)
        # Without a backward pass, a part of the images at a time, so that less memory is needed.
        at_once = B if keep else -(-B // K)
        for first in range(0, B, at_once):
            images = slice(first, min(first + at_once, B))
            n = images.stop - first
            of_images = streams[:, first * L : images.stop * L].contiguous().unflatten(1, (n, L))
            firsts, lasts, _ = _divided(n, L, D)
            lengths, starts, stops = (x[images].numpy() for x in of_batch)
            packed = torch.empty_like(of_images)
            arrays = of_images.numpy(), packed.numpy()
            _run(pack_streams, len(of_images) * len(firsts), firsts, lasts, lengths, *arrays)
            n_kept = n * L if keep else 0
            shapes = (N, K, n_kept, 3 * R), (N, K, n_kept, R), (N, K, n_kept), (N, K, n_kept), (N, n_kept, D)
            kept, of_part = [ups.new_empty(shape) for shape in shapes], ups.new_empty(N, K, n, R)
            images_of_task = firsts, lasts, lengths, starts, stops, frozen.causal
            sizes = np.float32(width), np.float32(frozen.eps)
            outputs = [x.numpy() for x in (*kept, of_part)]
            arguments = (*images_of_task, *sizes, arrays[1], *weights, keep, *outputs)
            _run(partial(stream_forward, R), N * len(firsts), *arguments)
            pooled[:, :, images] = of_part
        return pooled, packed, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.frozen, ctx.tokens, _, ctx.width, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:], *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        packed, qkv, attended, inverse, log_sum, last_stream, projections, biases, ups = ctx.saved_tensors
        N, K, R, D = ups.shape
        _, B, L, _ = packed.shape
        firsts, lasts, of_sums = _divided(B, L, D)
        extents_of_images = (x.numpy() for x in extents(ctx.frozen, ctx.tokens))
        weights = _in_panels(projections), _in_panels(ups), _in_panels(ups.mT), biases
        n_sums = len(of_sums) - 1
        d_rows, d_ups = (x.new_empty(n_sums, *x.shape) for x in weights[:2])
        d_biases = biases.new_empty(n_sums, *biases.shape)
        torch.autograd.graph.increment_version(last_stream)  # it is overwritten: a second backward pass fails
        before = (packed, *weights, qkv, attended, inverse, log_sum, last_stream, grads[0].contiguous())
        arguments = (firsts, lasts, *extents_of_images, ctx.frozen.causal, np.float32(ctx.width), of_sums)
        arrays = (x.numpy() for x in (*before, d_rows, d_ups, d_biases))
        _run(partial(stream_backward, R), N * n_sums, *arguments, *arrays)
        sums = torch.empty_like(projections), torch.empty_like(ups)
        for parts, total, n_written in zip((d_rows, d_ups), sums, (K, K - 1), strict=True):
            _run(add_up_panels, N * K, n_written, parts.numpy(), total.numpy())
        return None, None, None, None, sums[0], d_biases.sum(0), sums[1]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        frozen, tokens, keep, width, *tensors = inputs
        lanes = info.batch_size
        pooled, *kept = _PooledStreams.apply(frozen, tokens, keep, width, *folded(lanes, in_dims[4:], tensors))
        return (pooled.unflatten(0, (lanes, -1)), *kept), (0, *(None for _ in kept))


def _divided(n_images: int, n_tokens: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide a batch into groups of images that a task computes at a time.

    Returns:
        The first image of every group and the one after its last, and for every sum of gradients its first group,
        followed by the number of groups.
    """
    n_sums, at_once = min(GROUPS, n_images), max(1, STREAM_FLOATS // (n_tokens * width))
    firsts: list[int] = []
    of_sums = [0]
    for i in range(n_sums):
        first, last = i * n_images // n_sums, (i + 1) * n_images // n_sums
        n_groups = -(-(last - first) // at_once)
        firsts += [first + j * (last - first) // n_groups for j in range(n_groups)]
        of_sums.append(len(firsts))
    return np.array(firsts), np.array([*firsts[1:], n_images]), np.array(of_sums)


def _in_panels(x: Tensor) -> Tensor:
    """A matrix `(…, rows, columns)` in panels of one vector's width, `(…, columns / VECTOR, rows, VECTOR)`."""
    panels: Tensor = x.unflatten(-1, (-1, VECTOR)).movedim(-2, -3)
    return panels.contiguous()


def _run(kernel: Callable[..., None], n_tasks: int, *arguments: Any) -> None:
    """Run a kernel on several threads."""
    on_threads(lambda first, last: kernel(first, last, *arguments), n_tasks)
