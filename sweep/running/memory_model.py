"""What a stack takes of the memory: by formulas for LAST, measured on three lanes for other side-networks.

Symbols: `N` lanes, `B` images of a batch, `L` tokens, `D` width, `r` the stack's rank, `S` stages, `K` modules.
"""

import numpy as np
import torch
from optuna.trial import FixedTrial
from torch import Tensor

from sweep.features.batches import StageData, stored_shape
from sweep.features.entry import DTYPE
from sweep.running.preparation import Prepared
from sweep.side_networks.cpu.trunk import GROUPS, is_compiled
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import EVALUATION_BATCH_SIZE
from sweep.training.lane_cost import measured_cost

FP32_BYTES = 4
MEMORY_SHARE = 0.8
"""Of the available memory, what a stack may take; the rest is for what the formulas leave out."""

PARAMETER_COPIES = 4
"""A lane's weights, their gradient, and AdamW's two moments."""

RANK_SPACE_COPIES = 8
"""Of a lane's weights in rank space: those, and what its products take instead, scaled and centred, with gradients.
Measured at 384 and 768 x 12 modules: 7.3."""

DIRECT_STREAMS = 5
"""Of `(B, L, D)` that a module of the direct form keeps for its backward pass; measured at 768 x 12 modules: 4.85."""

KEPT_COPIES = 1.5
"""Of what a lane keeps for its backward pass, where that is measured: the rest is for gradients on their way."""

EVALUATED_SHARE = 0.5
"""Of what as many images would keep in training, what an evaluation holds at a time, likewise."""

STREAM_COPIES = 2.5
"""Of a batch's stages in fp32: as read, in half precision, as stages, and centred."""

RUNTIME_BYTES = 96 * 2**20
"""Threads, compiled code and the matrix library's own buffers; measured: 60 to 90 MiB."""


def lane_cost(prepared: Prepared) -> tuple[int, int]:
    """Bytes that one more lane takes, and multiply-adds of its training step for an image."""
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    if spec.family == "last":
        compiled = is_compiled(spec.max_rank, prepared.device, torch.float32)
        n_bytes = bytes_per_lane(spec, tokens, study.batch_size, compiled=compiled)
        return n_bytes, spec.work[spec.form] * tokens
    data, indices = random_data(prepared)
    config = calibrated_config(prepared)
    lanes = [spec.lane(config.rank, seed, config).to(prepared.device) for seed in range(3)]
    stages, _ = data.batch(indices, next(lanes[0].parameters()))
    cost = measured_cost(lanes, stages)
    n_parameters = sum(p.numel() for p in lanes[0].parameters())
    evaluated = EVALUATED_SHARE * cost.kept_bytes * EVALUATION_BATCH_SIZE / len(indices)
    n_bytes = PARAMETER_COPIES * FP32_BYTES * n_parameters + round(max(KEPT_COPIES * cost.kept_bytes, evaluated))
    return n_bytes, cost.multiply_adds // len(indices)


def calibrated_config(prepared: Prepared) -> LaneConfig:
    """What a lane is measured with: the largest rank, and for a side-network of the study's own its baseline."""
    spec, study = prepared.spec, prepared.study
    if spec.is_own:
        return study.lane_config(FixedTrial(dict(study.baseline)))
    return LaneConfig(lr=1e-3, rank=spec.max_rank)


def random_data(prepared: Prepared) -> tuple[StageData, Tensor]:
    """A batch of random features and labels, and its indices."""
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    n_images = min(study.batch_size, prepared.data.train.n_images)
    shape = (n_images, *stored_shape(spec.stage_widths, tokens))
    stages = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(DTYPE)
    lengths = torch.full((n_images,), tokens) if prepared.data.kind == "texts" else None
    labels = torch.arange(n_images) % spec.n_classes
    data = StageData(stages, labels, spec.n_classes, widths=spec.widths, lengths=lengths)
    return data, torch.arange(n_images)


def parameter_bytes(spec: SideNetworkSpec) -> int:
    """One copy of a lane's parameters, padded to the stack's rank."""
    with torch.device("meta"):
        return FP32_BYTES * sum(p.numel() for p in spec.plain(spec.max_rank).parameters())


def kept_bytes(spec: SideNetworkSpec, n_tokens: int, *, compiled: bool) -> int:
    """What the trunk's forward pass returns for one lane to be kept: what the backward pass reads.

    Per token, in `_PooledTrunk.forward`: attended `K·r`, qkv `3K·r`, inverse `K`, log_sum `K`. In `_Trunk.forward` the
    same, and streams `K·r` and products `r·K(K−1)/2`.

    Args:
        spec: Shape of the lane.
        n_tokens: `B·L`.
        compiled: Whether `cpu/trunk.py` computes it, and not `rank_space_trunk.py`.
    """
    k, r = spec.n_modules, spec.max_rank
    return FP32_BYTES * n_tokens * (4 * k * r + 2 * k + (0 if compiled else k * r + r * k * (k - 1) // 2))


def pyramid_floats(k: int, r: int) -> tuple[int, int]:
    """What `RankSpacePyramidLAST` keeps of a token for its backward pass, and what a module takes while it runs.

    A module after `j` others keeps their outputs and what these are multiplied with, and its own `LN(x) W` and output.
    How often is measured, at 7 and 14 modules of ranks 2 and 8: within 10%.
    """
    return round(sum((4.5 * j + 8) * r for j in range(k))), (7 * k + 16) * r


def bytes_per_lane(spec: SideNetworkSpec, tokens: int, batch_size: int, *, compiled: bool) -> int:
    """What one more lane takes: the larger of a training step and of the evaluation's batch.

    A training step has what is kept. In the backward pass the compiled kernels have, for each of `GROUPS` groups of
    images and for their sum, the gradients of `W_γ Ũᵀ`, `Ũ Ũᵀ` and `Ũ`; and once `W_γ Ũᵀ` (`3K²r²`), `Ũ Ũᵀ` (`K²r²`)
    and two copies of its gradient. Plain PyTorch has the gradient of attended as it arrives and its copy (`2K·r` a
    token), d_products (`K·r`), d_qkv (`3r`) and d_stream (`r`).

    The evaluation keeps one module's part. Compiled, that is of a `K`th of the images all modules'; else attended and
    products (`2K·r`), and qkv, stream, inverse and log_sum (`4r + 2`).

    Args:
        spec: Shape of the lane.
        tokens: `L`.
        batch_size: `B` of training.
        compiled: As of `kept_bytes`.
    """
    k, r = spec.n_modules, spec.max_rank
    n_tokens, n_evaluated = batch_size * tokens, EVALUATION_BATCH_SIZE * tokens
    if spec.form == "direct":
        trained = n_tokens * spec.modules_per_block * sum(spec.stage_widths[1:])
        streams = DIRECT_STREAMS * max(trained, n_evaluated * max(spec.stage_widths))
        return PARAMETER_COPIES * parameter_bytes(spec) + FP32_BYTES * streams
    if spec.widths:
        kept, transient = pyramid_floats(k, r)
        streams = max(n_tokens * (kept + transient), n_evaluated * transient)
        return RANK_SPACE_COPIES * parameter_bytes(spec) + FP32_BYTES * streams
    training = kept_bytes(spec, n_tokens, compiled=compiled)
    if compiled:
        training += FP32_BYTES * k * r * ((GROUPS + 1) * (4 * k * r + spec.width) + 6 * k * r)
        evaluation = kept_bytes(spec, -(-EVALUATION_BATCH_SIZE // k) * tokens, compiled=True)
    else:
        training += FP32_BYTES * n_tokens * (3 * k * r + 4 * r)
        evaluation = FP32_BYTES * n_evaluated * (2 * k * r + 4 * r + 2)
    return RANK_SPACE_COPIES * parameter_bytes(spec) + max(training, evaluation)


def shared_bytes(spec: SideNetworkSpec, tokens: int, batch_size: int) -> int:
    """The frozen streams of a batch, of training or evaluation, whichever is the larger, and `RUNTIME_BYTES`."""
    n_images = max(batch_size, EVALUATION_BATCH_SIZE)
    return RUNTIME_BYTES + int(STREAM_COPIES * n_images * tokens * sum(spec.stage_widths) * FP32_BYTES)


def lanes_that_fit(free_bytes: int, shared: int, per_lane: int) -> int:
    """The largest `N` within `MEMORY_SHARE` of the memory, after the shared part."""
    return max(0, int(MEMORY_SHARE * free_bytes - shared) // per_lane)
