"""How much memory a stack needs: formulas for LAST, and a measurement on three lanes for other side-networks.

Symbols: `N` lanes, `B` images of a batch, `L` tokens, `D` width, `r` the stack's rank, `S` stages, `K` modules.
"""

import numpy as np
import torch
from optuna.trial import FixedTrial
from torch import Tensor

from backbones.grid import grid_side
from sweep.features.batches import StageData, stored_shape
from sweep.features.entry import DTYPE
from sweep.running.preparation import Prepared
from sweep.side_networks.cpu.batch import ALIGNMENT, GROUPS
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS
from sweep.side_networks.cpu.trunk import is_compiled
from sweep.side_networks.cpu.vectors import VECTOR
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import BOXES
from sweep.tasks.boxes import IMAGES_AT_A_TIME, LABEL_COLUMNS
from sweep.tasks.kinds import DETECTION, SEGMENTATION
from sweep.tasks.label_maps import CHUNK_NUMBERS, LABELS_A_TOKEN
from sweep.tasks.targets import OF_CLASSES, Target
from sweep.training.lane_cost import measured_cost
from sweep.training.stack import EVALUATION_BATCH_SIZE

FP32_BYTES = 4
MEMORY_SHARE = 0.8
"""Share of the available memory that a stack may use. The rest is for what the formulas leave out."""

PARAMETER_COPIES = 4
"""A lane's weights, their gradient, and AdamW's two moments."""

RANK_SPACE_COPIES = 8
"""Copies of a lane's weights in rank space: the weights, their scaled and centred forms, and all gradients. Measured at
384 and 768 x 12 modules: 7.3."""

DIRECT_STREAMS = 5
"""Tensors of shape `(B, L, D)` that a module of the direct form keeps for the backward pass. Measured at 768 x 12
modules: 4.85."""

KEPT_COPIES = 1.5
"""Memory of a training step, as a multiple of the measured bytes that a lane keeps for the backward pass. The excess is
for the gradients in transit."""

EVALUATED_SHARE = 0.5
"""Memory of an evaluation, as a share of the measured bytes that as many images would keep in training."""

STREAM_COPIES = 2.5
"""Memory of a batch's stages, in fp32 copies: as read, in half precision, as stages, and centred."""

BOXES_AN_IMAGE = 20
"""Number of boxes in the images of the random batch for detection."""

METRIC_COPIES = 6
"""Copies of interpolated outputs that the metrics of segmentation hold, and of outputs that boxes are read from."""

RUNTIME_BYTES = 96 * 2**20
"""Memory of threads, compiled code and the matrix library's own buffers. Measured: 60 to 90 MiB."""


def lane_cost(prepared: Prepared) -> tuple[int, int]:
    """Bytes that one more lane takes, and multiply-adds of its training step per image."""
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    if spec.has_rank_space and not spec.dense:
        compiled = is_compiled(spec.row_rank, prepared.device, torch.float32)
        n_bytes = bytes_per_lane(spec, tokens, study.batch_size, compiled=compiled)
        return n_bytes, spec.work[spec.form] * tokens
    data, indices = random_data(prepared)
    config = calibrated_config(prepared)
    lanes = [spec.lane(config.rank, seed, config).to(prepared.device) for seed in range(3)]
    stages, labels = data.batch(indices, next(lanes[0].parameters()))
    cost = measured_cost(lanes, stages, labels if spec.dense else None)
    n_parameters = sum(p.numel() for p in lanes[0].parameters())
    evaluated = EVALUATED_SHARE * cost.kept_bytes * EVALUATION_BATCH_SIZE / len(indices)
    n_bytes = PARAMETER_COPIES * FP32_BYTES * n_parameters + round(max(KEPT_COPIES * cost.kept_bytes, evaluated))
    return n_bytes, cost.multiply_adds // len(indices)


def calibrated_config(prepared: Prepared) -> LaneConfig:
    """The configuration of a lane to measure: the largest rank, or the baseline for the study's own side-network."""
    spec, study = prepared.spec, prepared.study
    if spec.is_own:
        return study.lane_config(FixedTrial(dict(study.baseline)))
    return LaneConfig(lr=1e-3, rank=spec.padded_rank, loss=DETECTION.losses[0] if spec.read_out == BOXES else None)


def random_data(prepared: Prepared) -> tuple[StageData, Tensor]:
    """A batch of random features and labels, and its indices."""
    study, spec, tokens = prepared.study_of_shape, prepared.spec, prepared.backbone.tokens
    n_images = min(study.batch_size, prepared.data.train.n_images)
    shape = (n_images, *stored_shape(spec.stage_widths, tokens))
    stages = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(DTYPE)
    lengths = torch.full((n_images,), tokens) if prepared.data.kind == "texts" else None
    labels, target = torch.arange(n_images) % spec.n_classes, OF_CLASSES
    if spec.read_out == BOXES:
        labels, target = _random_boxes(n_images, spec.n_classes), Target(DETECTION)
    elif spec.dense:
        side, target = LABELS_A_TOKEN * grid_side(spec.n_tokens, spec.n_prefix_tokens), Target(SEGMENTATION)
        labels = labels.to(torch.uint8)[:, None, None].expand(-1, side, side)
    data = StageData(stages, labels, spec.n_classes, widths=spec.widths, target=target, lengths=lengths)
    return data, torch.arange(n_images)


def _random_boxes(n_images: int, n_classes: int) -> Tensor:
    """Boxes of all classes in turn, `(n, M, 6)`."""
    rows = torch.zeros(n_images, BOXES_AN_IMAGE, LABEL_COLUMNS)
    low, sides = torch.rand(2, n_images, BOXES_AN_IMAGE, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    rows[..., 0] = torch.arange(n_images * BOXES_AN_IMAGE).view(n_images, -1) % n_classes
    rows[..., 1:3], rows[..., 3:5] = low, low + sides
    return rows


def parameter_bytes(spec: SideNetworkSpec) -> int:
    """Bytes of one copy of a lane's parameters, padded to the stack's rank."""
    with torch.device("meta"):
        return FP32_BYTES * sum(p.numel() for p in spec.plain(spec.padded_rank).parameters())


def kept_bytes(spec: SideNetworkSpec, n_tokens: int, *, compiled: bool) -> int:
    """Bytes that one lane's trunk keeps between the forward and the backward pass.

    Per token, `_PooledTrunk.forward` keeps attended (`K·r` numbers), qkv (`3K·r`), inverse (`K`) and log_sum (`K`).
    From rank `FEWEST_RANKS` on, `_PooledStreams.forward` keeps the same, with `r` and `D` padded, and a stream (`D`).
    `_Trunk.forward` keeps the same as the first, and streams (`K·r`) and products (`r·K(K−1)/2`).

    Args:
        spec: Structure of the side-network.
        n_tokens: Number of tokens in the batch, `B·L`.
        compiled: Whether `cpu/trunk.py` computes the lane; otherwise `rank_space_trunk.py` does.
    """
    k, r = spec.n_modules, spec.row_rank
    if compiled and r >= FEWEST_RANKS:
        r, width = _padded_sizes(spec)
        return FP32_BYTES * n_tokens * (4 * k * r + 2 * k + width)
    return FP32_BYTES * n_tokens * (4 * k * r + 2 * k + (0 if compiled else k * r + r * k * (k - 1) // 2))


def _padded_sizes(spec: SideNetworkSpec) -> tuple[int, int]:
    """Rank and width as `cpu/stream_trunk.py` pads them."""
    return -(-spec.row_rank // VECTOR) * VECTOR, -(-spec.width // ALIGNMENT) * ALIGNMENT


def pyramid_floats(k: int, r: int) -> tuple[int, int]:
    """Numbers per token that `RankSpacePyramidLAST` keeps for the backward pass, and that a module needs while it runs.

    A module after `j` others keeps their outputs and the factors of these, and its own `LN(x) W` and output. The
    number of copies was measured at 7 and 14 modules of ranks 2 and 8, and the formula is within 10% there.

    Args:
        k: Number of modules `K`.
        r: Rank.
    """
    return round(sum((4.5 * j + 8) * r for j in range(k))), (7 * k + 16) * r


def bytes_per_lane(spec: SideNetworkSpec, tokens: int, batch_size: int, *, compiled: bool) -> int:
    """Bytes that one more lane takes: for a training step or for an evaluation batch, whichever needs more.

    A training step needs `kept_bytes`. In the backward pass, the compiled kernels also hold the gradients of `W_γ Ũᵀ`,
    `Ũ Ũᵀ` and `Ũ`, for each of `GROUPS` groups of images and for their sum. They hold `W_γ Ũᵀ` (`3K²r²`), `Ũ Ũᵀ`
    (`K²r²`) and two copies of the latter's gradient once. Plain PyTorch holds, per token, the gradient of attended and
    a copy of it (`2K·r`), d_products (`K·r`), d_qkv (`3r`) and d_stream (`r`). From rank `FEWEST_RANKS` on, the
    compiled kernels hold the gradients of all weights (`4K·r·D`) for each group and for their sum, and copies of `W_γ`
    and of `Ũ`.

    An evaluation holds the part of one module. The compiled kernels hold all modules' parts for `1/K` of the images,
    and next to nothing from rank `FEWEST_RANKS` on.
    Plain PyTorch holds, per token, attended and products (`2K·r`), and qkv, stream, inverse and log_sum (`4r + 2`).

    Args:
        spec: Structure of the side-network.
        tokens: Number of tokens `L`.
        batch_size: Batch size `B` in training.
        compiled: Whether `cpu/trunk.py` computes the lane; otherwise `rank_space_trunk.py` does.
    """
    k, r = spec.n_modules, spec.row_rank
    n_tokens, n_evaluated = batch_size * tokens, EVALUATION_BATCH_SIZE * tokens
    copies = (
        PARAMETER_COPIES + (RANK_SPACE_COPIES - PARAMETER_COPIES) * spec.parts
    )  # the blocks of all parts written out
    if spec.form == "direct":
        trained = n_tokens * spec.modules_per_block * sum(spec.stage_widths[1:])
        streams = DIRECT_STREAMS * max(trained, n_evaluated * max(spec.stage_widths))
        return PARAMETER_COPIES * parameter_bytes(spec) + FP32_BYTES * streams
    if spec.widths:
        kept, transient = pyramid_floats(k, r)
        streams = max(n_tokens * (kept + transient), n_evaluated * transient)
        return copies * parameter_bytes(spec) + FP32_BYTES * streams
    training = kept_bytes(spec, n_tokens, compiled=compiled)
    if compiled and r >= FEWEST_RANKS:
        padded_rank, padded_width = _padded_sizes(spec)
        training += FP32_BYTES * k * padded_rank * padded_width * (4 * (GROUPS + 1) + 5)
        evaluation = 0
    elif compiled:
        training += FP32_BYTES * k * r * ((GROUPS + 1) * (4 * k * r + spec.width) + 6 * k * r)
        evaluation = kept_bytes(spec, -(-EVALUATION_BATCH_SIZE // k) * tokens, compiled=True)
    else:
        training += FP32_BYTES * n_tokens * (3 * k * r + 4 * r)
        evaluation = FP32_BYTES * n_evaluated * (2 * k * r + 4 * r + 2)
    return copies * parameter_bytes(spec) + max(training, evaluation)


def shared_bytes(spec: SideNetworkSpec, tokens: int, batch_size: int, *, n_parts: int = 1) -> int:
    """Bytes that all lanes share: the frozen streams of the larger of the two batches, and `RUNTIME_BYTES`.

    From rank `FEWEST_RANKS` on, the streams of a training batch are there once more, in panels.
    For segmentation and detection, metrics hold the outputs of a few images at a time, and a head that reads several
    stages holds them normalised.

    Args:
        spec: Structure of the side-network.
        tokens: Number of tokens `L`.
        batch_size: Batch size `B` in training.
        n_parts: Parts of the lanes that train at the same time; each has frozen streams of its own.
    """
    n_images = max(batch_size, EVALUATION_BATCH_SIZE)
    held = IMAGES_AT_A_TIME * tokens * spec.n_outputs if spec.read_out == BOXES else CHUNK_NUMBERS
    of_metrics = METRIC_COPIES * held * FP32_BYTES if spec.dense else 0
    normalised = sum(spec.head_widths[:-1])
    streams = int((STREAM_COPIES * sum(spec.stage_widths) + normalised) * n_images * tokens * FP32_BYTES)
    if spec.has_rank_space and spec.row_rank >= FEWEST_RANKS:
        streams += sum(spec.stage_widths[1:]) * batch_size * tokens * FP32_BYTES
    return RUNTIME_BYTES + of_metrics + n_parts * streams


def lanes_that_fit(free_bytes: int, shared: int, per_lane: int) -> int:
    """The largest number of lanes `N` that fits in `MEMORY_SHARE` of the memory, after the shared part is taken off."""
    return max(0, int(MEMORY_SHARE * free_bytes - shared) // per_lane)
