"""LoRA under the protocol of LAST: chosen on val, trained again on train and val together, tested once."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.timm_vit import TimmViT
from sweep.bench.rows import with_lora
from sweep.data import Split
from sweep.features.batches import Batch, StageData, n_batches, training_batches
from sweep.machine.seeds import derive_seed, seeded
from sweep.running.preparation import Prepared
from sweep.side_networks.head import Head
from sweep.study.lane_config import LaneConfig
from sweep.tasks.metrics import classification_metrics
from sweep.training.plain_loop import train_plainly
from sweep.training.stack import EVALUATION_BATCH_SIZE

HEAD_LR = 5e-3
CONFIGS = tuple(
    LaneConfig(lr=lr, head_lr_ratio=HEAD_LR / lr, rank=rank) for rank in (4, 16) for lr in (5e-4, 1.5e-3, 5e-3)
)
"""The configurations to try: AdamW, a cosine schedule after one epoch of warm-up, and a learning rate for the head."""


class LoraViT(nn.Module):
    """A copy of a Vision Transformer with LoRA on queries, keys and values of every block, and the head that LAST has.

    Args:
        vit: A network of timm; it is copied, and the copy's own weights are frozen.
        head: The head, which reads the last tokens.
        rank: Rank of the adapters.
    """

    def __init__(self, vit: nn.Module, head: Head, rank: int):
        super().__init__()
        self.vit = with_lora(copy.deepcopy(vit), rank)
        self.head = head

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits `(B, C)` from a single input, the images `(B, 3, H, W)`."""
        (images,) = inputs
        vit: Any = self.vit
        logits: Tensor = self.head(self.head.pool(vit.forward_features(images)))
        return logits

    @property
    def n_trainable(self) -> int:
        """The number of trained parameters: adapters and head."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


@dataclass(frozen=True)
class LoraChoice:
    """The configuration chosen on val.

    Attributes:
        config: The hyperparameters.
        val: The metrics on val by name.
        trainable_parameters: The number of trained parameters of adapters and head.
        wall_seconds: Time for decoding train and val, and for training and measuring all configurations.
    """

    config: LaneConfig
    val: dict[str, float]
    trainable_parameters: int
    wall_seconds: float


def choose_lora(prepared: Prepared, configs: Sequence[LaneConfig], say: Callable[[str], None]) -> LoraChoice:
    """Train every configuration on train, one after the other, and choose on val. The test data is not used.

    Args:
        prepared: The task, the backbone, and the study with the epochs, batch size and seed.
        configs: The configurations to try.
        say: Called with the scores on val of each configuration.
    """
    started = time.perf_counter()
    train_data, val_data = (_images_of(split, prepared) for split in (prepared.data.train, prepared.data.val))
    tried: list[tuple[LaneConfig, dict[str, float], int]] = []
    for number, config in enumerate(configs):
        module = new_lora(prepared, config.rank, derive_seed(prepared.study.seed, "initialisation", number))
        measured = train_lora(module, config, train_data, prepared, val_data)
        tried.append((config, measured[-1], module.n_trainable))
        curve = " ".join(f"{val['top1']:.3f}" for val in measured)
        say(f"lora, rank {config.rank}, lr {config.lr:g}: val top-1 by epoch {curve}")
    config, val, n_trainable = min(tried, key=lambda one: (math.isnan(one[1]["nll"]), -one[1]["top1"], one[1]["nll"]))
    return LoraChoice(config, val, n_trainable, time.perf_counter() - started)


def retrain_lora(prepared: Prepared, config: LaneConfig) -> dict[str, float]:
    """Train a configuration again on train and val together, and measure it once on test.

    Args:
        prepared: As in `choose_lora`.
        config: The configuration that `choose_lora` chose.
    """
    data = prepared.data
    module = new_lora(prepared, config.rank, derive_seed(prepared.study.seed, "retraining", 0))
    train_lora(module, config, _images_of(data.train, prepared).joined(_images_of(data.val, prepared)), prepared)
    return _metrics_of(module, _images_of(data.test, prepared))


def new_lora(prepared: Prepared, rank: int, seed: int) -> LoraViT:
    """Add LoRA to a copy of the backbone's network. With `B = 0` it starts as a linear probe does."""
    spec, backbone = prepared.spec, prepared.backbone
    assert isinstance(backbone, TimmViT)
    with seeded(seed):
        head = Head(spec.width, spec.n_classes, pool=spec.pool, n_prefix_tokens=spec.n_prefix_tokens)
        return LoraViT(backbone.network, head, rank).to(prepared.device)


def train_lora(
    module: LoraViT, config: LaneConfig, data: StageData, prepared: Prepared, val_data: StageData | None = None
) -> list[dict[str, float]]:
    """Train a module in place.

    Args:
        module: The module, from images to logits.
        config: The hyperparameters.
        data: The training images, see `_images_of`.
        prepared: As in `choose_lora`.
        val_data: The images to measure on after every epoch.

    Returns:
        The metrics on val by name, epoch by epoch; empty without `val_data`.
    """
    study, measured = prepared.study, []
    steps_per_epoch = n_batches(len(data), study.batch_size)

    like = next(module.parameters())

    def batches() -> Iterator[Batch]:
        for epoch in range(1, study.epochs + 1):
            yield from data.batches(epoch, training_batches(len(data), study.batch_size, study.seed, epoch), like)
            if val_data is not None:
                measured.append(_metrics_of(module, val_data))

    n_steps = study.epochs * steps_per_epoch
    train_plainly(module, config, data, batches(), n_steps=n_steps, steps_per_epoch=steps_per_epoch)
    return measured


def _images_of(split: Split, prepared: Prepared) -> StageData:
    """Decode a split's images once, as the single stage that LoRA reads: `(n, 1, 3, H, W)`."""
    images = torch.stack([prepared.backbone.transform(split.open(index)) for index in range(split.n_images)])
    labels = torch.from_numpy(np.array(split.labels))
    return StageData(images[:, None].numpy(), labels, prepared.data.n_classes)


@torch.no_grad()
def _metrics_of(module: LoraViT, data: StageData) -> dict[str, float]:
    like = next(module.parameters())
    batches = torch.arange(len(data)).split(EVALUATION_BATCH_SIZE)
    logits = torch.cat([module(data.batch(indices, like)[0]).cpu() for indices in batches])
    return {name: value.item() for name, value in classification_metrics(logits[None], data.labels).items()}
