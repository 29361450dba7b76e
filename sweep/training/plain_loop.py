"""Trains one module as a PyTorch user would: a loss, `torch.optim`, no lanes. Tests compare the engine with it."""

import itertools
import math
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from backbones.stages import Stages, lengths_of
from sweep.features.batches import Batch, TrainingData
from sweep.features.folds import LearnedFrom
from sweep.side_networks.gated import penalty
from sweep.side_networks.head import KEEP
from sweep.study.lane_config import LaneConfig
from sweep.tasks.kinds import CLASSES
from sweep.tasks.lane_losses import DENSE_DIMENSIONS
from sweep.tasks.own_losses import is_own, loss_of_images
from sweep.training.dropout import LaneStep, dropout_mask
from sweep.training.plain_dense_loss import plain_dense_loss


def train_plainly(
    module: nn.Module,
    config: LaneConfig,
    data: TrainingData | LearnedFrom,
    batches: Iterable[Batch],
    *,
    n_steps: int,
    steps_per_epoch: int,
    seed: int = 0,
    held_out: Iterable[Tensor] | None = None,
) -> None:
    """Train a module in place; arguments as `plain_steps`."""
    length = {"n_steps": n_steps, "steps_per_epoch": steps_per_epoch}
    steps = plain_steps(module, config, data, batches, **length, seed=seed, held_out=held_out)
    for _ in steps:
        pass


def plain_steps(
    module: nn.Module,
    config: LaneConfig,
    data: TrainingData | LearnedFrom,
    batches: Iterable[Batch],
    *,
    n_steps: int,
    steps_per_epoch: int,
    seed: int = 0,
    held_out: Iterable[Tensor] | None = None,
) -> Generator[None]:
    """Train a module in place, and yield after every step, when its weights may be read or replaced.

    Args:
        module: Maps stages, each `(B, L, D)`, to outputs `(B, C)`, or for segmentation and detection `(B, P, C)`.
        config: Its hyperparameters.
        data: The training set.
        batches: Batches of `data`, one per step, in the dtype and on the device of the module.
        n_steps: Number of steps in the schedule, even if there are fewer batches.
        steps_per_epoch: Steps per epoch, for the warm-up.
        seed: Seed for dropout.
        held_out: For a fold of cross-validation: which images of each batch are left out of it, boolean `(B,)`. There
            is no step if all of them are. `data` is then what the fold learns from.
    """
    like = next(module.parameters())
    class_counts = data.class_counts.to(like)
    optimizer = _optimizer(module, config)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), n_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.schedule == "constant" or step >= n_steps:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (n_steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    left_out = repeat(None) if held_out is None else held_out
    for step, ((of_all, labels_of_all), out) in enumerate(zip(batches, left_out, strict=False)):
        rows = slice(None) if out is None else ~out
        stages, labels = _rows(of_all, rows), labels_of_all[rows]
        if not len(labels):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns of a schedule that begins before the optimizer
                scheduler.step()
            yield
            continue
        if config.dropout:
            width = module.get_buffer(KEEP).shape[-1]
            mask = dropout_mask(LaneStep(config.dropout, seed, step), len(labels_of_all), width, like.dtype)[rows]
            outputs = functional_call(module, {KEEP: mask.to(like.device)}, (stages,))
        else:
            outputs = module(stages)
        dense = labels.dim() == DENSE_DIMENSIONS
        loss_of = plain_dense_loss(config, class_counts) if dense else plain_loss(config, class_counts, len(data))
        loss = loss_of(outputs, labels) + config.rank_penalty * penalty(module)
        optimizer.zero_grad()
        loss.backward()
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
        optimizer.step()
        scheduler.step()
        yield


def _rows(stages: list[Tensor], rows: slice | Tensor) -> list[Tensor]:
    """The stages of some images or texts of a batch."""
    lengths, chosen = lengths_of(stages), [stage[rows] for stage in stages]
    return chosen if lengths is None else Stages(chosen, lengths[rows])


def plain_loss(
    config: LaneConfig, class_counts: Tensor, n_images: int | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss function of a configuration. It maps outputs `(B, C)` and the labels of `StageData.batch` to a scalar.

    Args:
        config: The configuration; without a loss it gets cross-entropy.
        class_counts: Number of training images of each class, `(C,)`, in the dtype of the logits. An empty class counts
            as one image.
        n_images: Number of training images, of which an image may have several labels; if not given, the sum of
            `class_counts`.
    """
    if config.class_weights not in (None, "none"):
        return partial(_weighted, config, class_counts, n_images)
    if config.loss is not None and is_own(config.loss):
        of_images = loss_of_images(config.loss, config.extra)
        return lambda outputs, labels: of_images(outputs, labels).mean()
    losses: dict[str, Callable[..., Tensor]] = {
        "cross_entropy": partial(F.cross_entropy, label_smoothing=config.label_smoothing),
        "focal": partial(_focal, config),
        "logit_adjusted": partial(_logit_adjusted, config, class_counts.clamp_min(1)),
        "bce": _binary,
        "asymmetric": partial(_asymmetric, config),
        "mse": F.mse_loss,
        "huber": partial(F.huber_loss, delta=config.huber_delta),
    }
    return losses[config.loss or CLASSES.losses[0]]


def _weighted(config: LaneConfig, counts: Tensor, n_images: int | None, outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean over images of the loss times a weight: of the image's class, or of each label that it has or lacks."""
    unweighted = plain_loss(replace(config, class_weights=None), counts)
    given: Any = config.class_weights  # "balanced", or one number per class
    n, balanced = counts.tolist(), given == "balanced"
    total = outputs.new_zeros(())
    if labels.dim() == 1:
        n_present = sum(count > 0 for count in n)
        for c in labels.unique().tolist():
            rows = labels == c
            weight = sum(n) / (n_present * n[c]) if balanced else given[c]
            total = total + weight * int(rows.sum()) * unweighted(outputs[rows], labels[rows])
        return total / len(labels)
    n_all = sum(n) if n_images is None else n_images
    for c, n_with in enumerate(n):
        with_label = labels[:, c] == 1
        for rows, n_alike, own in ((with_label, n_with, given), (~with_label, n_all - n_with, None)):
            weight = own[c] if isinstance(own, tuple) else 1.0
            if balanced and 0 < n_with < n_all:
                weight = n_all / (2 * n_alike)
            if rows.any():
                of_rows = unweighted(outputs[rows, c : c + 1], labels[rows, c : c + 1])
                total = total + weight * int(rows.sum()) * of_rows
    return total / len(labels)


def _focal(config: LaneConfig, logits: Tensor, labels: Tensor) -> Tensor:
    p = torch.softmax(logits, -1)[torch.arange(len(labels), device=labels.device), labels]
    return (-((1 - p) ** config.focal_gamma) * p.log()).mean()


def _logit_adjusted(config: LaneConfig, counts: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits + config.logit_adjustment * (counts / counts.sum()).log(), labels)


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    targets = labels if labels.dim() > 1 else F.one_hot(labels, logits.shape[-1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1).mean()


def _asymmetric(config: LaneConfig, logits: Tensor, labels: Tensor) -> Tensor:
    p = logits.sigmoid()
    q = (p - config.asymmetric_margin).clamp(min=0)
    present = (1 - p) ** config.asymmetric_gamma_positive * p.log()
    absent = q**config.asymmetric_gamma_negative * (1 - q).log()
    return -(labels * present + (1 - labels) * absent).sum(-1).mean()


def _optimizer(module: nn.Module, config: LaneConfig) -> torch.optim.Optimizer:
    """The optimizer: one learning rate for the head and one for the rest; only matrices decay, but not positions."""
    groups = []
    for is_head, has_decay in itertools.product((False, True), repeat=2):
        params = [
            p
            for name, p in module.named_parameters()
            if name.startswith("head.") == is_head and (p.dim() > 1 and not name.endswith("positions")) == has_decay
        ]
        lr = config.lr * config.head_lr_ratio if is_head else config.lr
        groups.append({"params": params, "lr": lr, "weight_decay": config.weight_decay if has_decay else 0.0})
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps)
    return torch.optim.SGD(groups, momentum=config.momentum)
