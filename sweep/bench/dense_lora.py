"""LoRA with the head of segmentation or detection, beside a finished run: the same data, loss, epochs and metrics."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from backbones import Backbone
from backbones.timm_vit import TimmViT
from sweep.bench.adapters import with_lora
from sweep.bench.lora import HEAD_LR, why_not_lora
from sweep.data import Split
from sweep.errors import UsageError
from sweep.export.selection import winner_of
from sweep.features.batches import Batch, StageData, n_batches, training_batches
from sweep.features.labels import labels_for
from sweep.features.training_data import CachedViews
from sweep.features.views import TrainingViews
from sweep.machine.seeds import derive_seed, seeded
from sweep.records.entries import require_config
from sweep.records.folder import RunFolder
from sweep.records.results import Results, load_results
from sweep.running.recorded import config_of_trial, recorded_backbone, recorded_data, recorded_views
from sweep.side_networks.token_head import TokenHead
from sweep.study.augmentation import NONE
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.tasks import boxes
from sweep.tasks.kinds import DETECTION, SEGMENTATION
from sweep.tasks.own_losses import is_own
from sweep.tasks.targets import Target
from sweep.training.plain_loop import train_plainly
from sweep.training.stack import EVALUATION_BATCH_SIZE

RANK, LEARNING_RATES = 8, (5e-4, 1.5e-3, 5e-3)
"""The three configurations: AdamW, a cosine schedule after one epoch of warm-up, and `HEAD_LR` for the head."""

OF_LOSS = ("loss", "class_weights", "focal_gamma", "label_smoothing")
"""What LoRA takes over from the configuration of the run's winner."""


class LoraWithTokenHead(nn.Module):
    """A copy of a Vision Transformer with LoRA, and the head that the linear probe of every token has.

    The head reads the network's last layer, and as many earlier stages as the side-networks' heads read beside theirs.

    Args:
        backbone: The backbone; its network is copied, and the copy's own weights are frozen.
        n_classes: Number of classes.
        rank: Rank of the adapters.
        detects: Whether tokens answer with boxes.
        cells: As `TokenHead`; 1 with boxes.
        head_stages: Number of stages that the head reads, the last layer among them.
    """

    def __init__(
        self, backbone: TimmViT, n_classes: int, rank: int, *, detects: bool, cells: int = 1, head_stages: int = 1
    ):
        super().__init__()
        self.network: Any = with_lora(copy.deepcopy(backbone.network), rank)
        n_outputs = boxes.n_outputs(n_classes) if detects else n_classes * cells**2
        self.earlier_blocks = backbone.stage_indices[1:][-head_stages:-1]
        self._streams = backbone.last_and_earlier
        self.head = TokenHead(
            backbone.width,
            n_outputs,
            n_prefix_tokens=backbone.n_prefix_tokens,
            earlier_widths=[backbone.width] * len(self.earlier_blocks),
            cells=cells,
        )
        if detects:
            with torch.no_grad():
                self.head.bias.copy_(boxes.first_bias(n_classes))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Outputs `(B, P, C)` for the patch tokens, or for their cells, from images `(B, 3, H, W)`."""
        (images,) = inputs
        return self.head.of_streams(self._streams(self.network, images, self.earlier_blocks))

    @property
    def n_trainable(self) -> int:
        """The number of trained parameters: adapters and head."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


@dataclass(frozen=True)
class DenseLora:
    """LoRA's configuration that is best on val, and the run beside it.

    Attributes:
        score: Name of the metric that decides, `miou` or `ap`.
        val: Metrics on val, by method: `winner`, `linear_probe`, `lora`. The score has a standard error if the run
            has one.
        test: The same on test.
        trainable_parameters: Number of trained parameters of the winner and of LoRA.
        lr: Learning rate of LoRA's adapters.
        n_configurations: Number of configurations of LoRA that were trained.
        lora_seconds: Wall time for decoding train and val, and for training and measuring all of these.
        run_seconds: Wall time of the run's features, of all splits, and of its search.
    """

    score: str
    val: Mapping[str, Mapping[str, float]]
    test: Mapping[str, Mapping[str, float]]
    trainable_parameters: Mapping[str, int]
    lr: float
    n_configurations: int
    lora_seconds: float
    run_seconds: float


def lora_beside_run(
    run: Path,
    *,
    device: torch.device,
    cache_dir: Path,
    say: Callable[[str], None],
    learning_rates: Sequence[float] = LEARNING_RATES,
) -> DenseLora:
    """Train LoRA on a run's train split, choose the learning rate on its val split, and test it once.

    Every configuration is trained for the run's epochs, with its batch size, its data order and the loss of its winner.
    The images are those of the winner's backbone and input size, and its cached views if it learned from views.

    Args:
        run: Folder of a finished run of segmentation or detection.
        device: Device to train on.
        cache_dir: Root of sweep's cache.
        say: Called with the score on val of each configuration.
        learning_rates: Learning rates of the adapters.

    Raises:
        UsageError: It is no such run, it was augmented without a cache, cross-validated, trained again or not tested;
            its winner has a loss of a study file; or LoRA cannot be trained in its backbone.
        SweepError: Its files are damaged, or the data or the backbone have changed since the run.
    """
    folder, results = RunFolder.open(run), load_results(run)
    require_config(folder, results.config)
    summary = _comparable(results, run)
    winner = winner_of(results, folder)
    config, of_winner = config_of_trial(results, folder, winner), _of_loss(results, winner, run)
    backbone = recorded_backbone(config, cache_dir, device)
    if reason := why_not_lora(backbone):
        raise UsageError(f"LoRA {reason}")
    if not isinstance(backbone, TimmViT):
        raise UsageError(f"LoRA with a head for every token needs a Vision Transformer of timm, not {backbone.name}")
    data = recorded_data(config, cache_dir, splits=("train", "val", "test"))
    target = Target.of(data.task, data.train.labels)
    started = time.perf_counter()
    views = _views(config, data.train, backbone)
    train = CachedViews(tuple(_images(backbone, view, data.n_classes, target) for view in views.cached(data.train)))
    val = _images(backbone, data.val, data.n_classes, target)
    of_head = {
        "detects": target.kind is DETECTION,
        "cells": config.get("head_cells", 1),
        "head_stages": min(config.get("head_stages", 1), max(1, len(backbone.stage_indices) - 1)),
    }
    best: tuple[LoraWithTokenHead, float, dict[str, float]] | None = None
    for number, lr in enumerate(learning_rates):
        with seeded(derive_seed(config["seed"], "initialisation", number)):
            module = LoraWithTokenHead(backbone, data.n_classes, RANK, **of_head).to(device)
        lane = LaneConfig(lr=lr, head_lr_ratio=HEAD_LR / lr, rank=RANK, **of_winner)
        _train(module, lane, train, config)
        metrics = _measured(module, val)
        say(f"lora, rank {RANK}, lr {lr:g}: {target.kind.score} on val {metrics[target.kind.score]:.3f}")
        if best is None or _order(metrics, target) < _order(best[2], target):
            best = module, lr, metrics
    assert best is not None
    module, lr, metrics = best
    lora_seconds = time.perf_counter() - started
    tested = _measured(module, _images(backbone, data.test, data.n_classes, target))
    of_run = {method: summary[method] for method in ("winner", "linear_probe") if summary.get(method)}
    seconds = summary["wall_seconds"]
    return DenseLora(
        score=target.kind.score,
        val={**{method: own["val"] for method, own in of_run.items()}, "lora": metrics},
        test={**{method: own["test"] for method, own in of_run.items()}, "lora": tested},
        trainable_parameters={"winner": summary["winner"]["trainable_parameters"], "lora": module.n_trainable},
        lr=lr,
        n_configurations=len(learning_rates),
        lora_seconds=lora_seconds,
        run_seconds=seconds["features"] + seconds["search"],
    )


def _comparable(results: Results, run: Path) -> Mapping[str, Any]:
    """The summary of a run that LoRA can be compared with.

    Raises:
        UsageError: It cannot.
    """
    config, summary = results.config, results.summary
    if results.kind not in (SEGMENTATION, DETECTION):
        raise UsageError(f"{run} is a run of {results.kind.name}; give one of segmentation or detection")
    if not summary:
        raise UsageError(f"{run} has not ended; end it with sweep resume first")
    for reason, holds in {
        "learned from fresh views in every epoch (--cache off)": (
            config.get("augment", NONE) != NONE and config.get("cache") == "off"
        ),
        "was cross-validated": bool(config.get("folds")),
        "was trained again on train and val": bool(summary.get("retrained")),
        "was not tested": not summary.get("tested"),
    }.items():
        if holds:
            raise UsageError(f"the run {run} {reason}, and LoRA is not, so they cannot be compared; give another run")
    return summary


def _of_loss(results: Results, trial: int, run: Path) -> dict[str, Any]:
    """The part of a trial's configuration that is about its loss.

    Raises:
        UsageError: The loss is one of a study file.
    """
    recorded = json.loads(results.trials.loc[results.trials["trial"] == trial, "lane_config"].iloc[0])
    of_loss = {name: recorded[name] for name in OF_LOSS if name in recorded}
    if (loss := of_loss.get("loss")) is not None and is_own(loss):
        raise UsageError(
            f"the winner of the run {run} learned with {loss.split(':')[1]}, a loss of its study file, and LoRA learns "
            f"with sweep's losses only; give a run whose study has no loss of its own"
        )
    return of_loss


def _views(config: Mapping[str, Any], train: Split, backbone: TimmViT) -> TrainingViews:
    """The views of the training images that a trial learned from.

    Raises:
        SweepError: Its augmentation gives other images than it did in the run.
    """
    declared = {name: config[name] for name in ("augment", "views", "seed") if name in config}
    study = Study(suggest=lambda trial: LaneConfig(lr=1e-3), baseline={}, **declared)
    return recorded_views(study, train, backbone.transform, config)


def _images(backbone: Backbone, split: Split, n_classes: int, target: Target) -> StageData:
    """Decode a split once, as the single stage that LoRA reads: images `(n, 1, 3, H, W)`."""
    images = [backbone.transform(split.open(index)) for index in range(split.n_images)]
    return StageData(torch.stack(images)[:, None].numpy(), labels_for(backbone, split), n_classes, target=target)


def _train(module: LoraWithTokenHead, lane: LaneConfig, train: CachedViews, config: Mapping[str, Any]) -> None:
    """Train a module in place, in the run's data order."""
    n_epochs, batch_size = config["epochs"], config["batch_size"]
    steps_per_epoch, like = n_batches(len(train), batch_size), module.head.weight

    def batches() -> Iterator[Batch]:
        for epoch in range(1, n_epochs + 1):
            yield from train.batches(epoch, training_batches(len(train), batch_size, config["seed"], epoch), like)

    train_plainly(module, lane, train, batches(), n_steps=n_epochs * steps_per_epoch, steps_per_epoch=steps_per_epoch)


@torch.no_grad()
def _measured(module: LoraWithTokenHead, data: StageData) -> dict[str, float]:
    """The metrics of a module, and the standard error of its score."""
    like, batches = module.head.weight, torch.arange(len(data)).split(EVALUATION_BATCH_SIZE)
    outputs = torch.cat([data.target.condensed(module(data.batch(indices, like)[0])) for indices in batches])
    return data.target.measure_one(outputs, data.labels)


def _order(metrics: Mapping[str, float], target: Target) -> tuple[bool, float, float]:
    """Sort key, best first, as for trials."""
    kind = target.kind
    return math.isnan(metrics[kind.tie]), -metrics[kind.score], metrics[kind.tie]


def show_lora(console: Console, found: DenseLora) -> None:
    """Print one line for each method."""
    table = Table(title=f"{found.score} (± standard error over images)", title_justify="left")
    for heading in ("method", "val", "test", "trained parameters", "seconds"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    seconds = {"winner": found.run_seconds, "lora": found.lora_seconds}
    for method in found.val:
        cells = [
            f"{of[method][found.score]:.3f} ± {of[method][f'{found.score}_error']:.3f}"
            for of in (found.val, found.test)
        ]
        n_parameters = f"{found.trainable_parameters[method]:,}" if method in found.trainable_parameters else ""
        name = f"LoRA, best of {found.n_configurations}" if method == "lora" else method.replace("_", " ")
        table.add_row(name, *cells, n_parameters, f"{seconds[method]:.1f}" if method in seconds else "")
    console.print(table)
    console.print(
        f"LoRA's {found.n_configurations} configurations took {found.lora_seconds / found.run_seconds:.1f} times as "
        f"long as the features and the whole search of the run"
    )
