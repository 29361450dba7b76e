"""LoRA under the protocol of LAST: chosen on val, trained again on train and val together, tested once."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from backbones import Backbone
from backbones.text_backbone import TextBackbone
from backbones.timm_vit import TimmViT
from sweep.bench import text_lora
from sweep.bench.adapters import LoraNetwork, LoraViT, has_peft, projections_of
from sweep.bench.text_lora import LoraText, token_data
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
    LaneConfig(lr=lr, head_lr_ratio=HEAD_LR / lr, rank=rank)
    for rank, lr in ((16, 1.5e-3), (16, 5e-4), (4, 1.5e-3), (4, 5e-4), (4, 5e-3), (16, 5e-3))
)
"""The configurations to try, those that did best so far first, because `--trials` may cut the list short. All train
with AdamW, a cosine schedule after one epoch of warm-up, and a learning rate of the head's own."""

TEXT_CONFIGS = tuple(
    LaneConfig(lr=lr, head_lr_ratio=text_lora.HEAD_LR / lr, rank=text_lora.RANK) for lr in text_lora.LEARNING_RATES
)
"""Those to try on texts. They are fewer, because language models are large."""

CONFIGS_OF = {"images": CONFIGS, "texts": TEXT_CONFIGS}


def why_not_lora(backbone: Backbone) -> str | None:
    """Why LoRA cannot be trained in a backbone's network; None if it can."""
    if not has_peft():
        return 'needs peft (python -m pip install -e ".[bench]")'
    if not isinstance(backbone, TimmViT | TextBackbone):
        return f"needs a Vision Transformer of timm or a network of transformers, and {backbone.name} is neither"
    if not projections_of(backbone.network):
        return f"no layer of {backbone.name} has a name that is known for queries, keys or values"
    return None


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
    train_data, val_data = (_inputs_of(split, prepared) for split in (prepared.data.train, prepared.data.val))
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
    train_lora(module, config, _inputs_of(data.train, prepared).joined(_inputs_of(data.val, prepared)), prepared)
    return _metrics_of(module, _inputs_of(data.test, prepared))


def new_lora(prepared: Prepared, rank: int, seed: int) -> LoraNetwork:
    """Add LoRA to a copy of the backbone's network. With `B = 0` it starts as a linear probe does."""
    spec, backbone = prepared.spec, prepared.backbone
    assert isinstance(backbone, TimmViT | TextBackbone)
    kind = LoraViT if isinstance(backbone, TimmViT) else LoraText
    with seeded(seed):
        head = Head(spec.width, spec.n_classes, pool=spec.pool, n_prefix_tokens=spec.n_prefix_tokens)
        return kind(backbone.network, head, rank).to(prepared.device)


def train_lora(
    module: LoraNetwork, config: LaneConfig, data: StageData, prepared: Prepared, val_data: StageData | None = None
) -> list[dict[str, float]]:
    """Train a module in place.

    Args:
        module: The module, from images or texts to logits.
        config: The hyperparameters.
        data: The training images or texts, see `_inputs_of`.
        prepared: As in `choose_lora`.
        val_data: The images or texts to measure on after every epoch.

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


def _inputs_of(split: Split, prepared: Prepared) -> StageData:
    """Decode a split once, as the single stage that LoRA reads: images `(n, 1, 3, H, W)`, or see `token_data`."""
    inputs = [prepared.backbone.transform(split.open(index)) for index in range(split.n_images)]
    labels, n_classes = torch.from_numpy(np.array(split.labels)), prepared.data.n_classes
    if split.kind == "texts":
        return token_data(inputs, labels, n_classes)
    return StageData(torch.stack(inputs)[:, None].numpy(), labels, n_classes)


@torch.no_grad()
def _metrics_of(module: LoraNetwork, data: StageData) -> dict[str, float]:
    like = next(module.parameters())
    batches = torch.arange(len(data)).split(EVALUATION_BATCH_SIZE)
    logits = torch.cat([module(data.batch(indices, like)[0]).cpu() for indices in batches])
    return {name: value.item() for name, value in classification_metrics(logits[None], data.labels).items()}
