"""One lane's configuration: everything that may differ between the side-networks of a stack."""

import sys
from dataclasses import dataclass, fields
from typing import Any

from sweep.errors import UsageError

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine")
LOSSES = ("cross_entropy", "focal", "logit_adjusted", "bce")


@dataclass(frozen=True, kw_only=True)
class LaneConfig:
    """Hyperparameters of one lane. A study's `suggest(trial)` returns one of these.

    Attributes:
        lr: Peak learning rate of the side modules.
        head_lr_ratio: The head's learning rate as a multiple of `lr`.
        rank: `r` of the lane's modules, at most the study's `max_rank`.
        optimizer: `"adamw"` or `"sgd"` (with momentum).
        weight_decay: Decoupled for AdamW, added to the gradient for SGD; never on biases and norms.
        beta1: First-moment decay of AdamW.
        beta2: Second-moment decay of AdamW.
        eps: Denominator term of AdamW.
        momentum: Momentum of SGD.
        schedule: `"cosine"` to zero or `"constant"`, both after a linear warm-up.
        warmup_epochs: Length of the warm-up in epochs, fractions allowed.
        loss: `"cross_entropy"`, `"focal"`, `"logit_adjusted"` or `"bce"` (one-vs-all).
        label_smoothing: Mass taken from the label and spread over all classes; for `cross_entropy` only.
        focal_gamma: Focusing exponent; for `focal` only.
        logit_adjustment: Weight of the log class priors; for `logit_adjusted` only.

    Raises:
        UsageError: A value of the wrong type or out of its range.
    """

    lr: float
    head_lr_ratio: float = 1.0
    rank: int = 8
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    logit_adjustment: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, field.type)
        self._check_choice("optimizer", OPTIMIZERS)
        self._check_choice("schedule", SCHEDULES)
        self._check_choice("loss", LOSSES)
        for name in ("lr", "head_lr_ratio", "eps"):
            self._check(name, getattr(self, name) > 0, "must be above 0")
        for name in ("weight_decay", "warmup_epochs", "focal_gamma", "logit_adjustment"):
            self._check(name, getattr(self, name) >= 0, "must not be negative")
        for name in ("beta1", "beta2", "momentum", "label_smoothing"):  # 0.9999999 would round to 1 in fp32
            self._check(name, 0 <= getattr(self, name) <= 0.999999, "must be at least 0 and below 1")
        self._check("rank", self.rank >= 1, "must be at least 1")

    def _check_type(self, name: str, expected: Any) -> None:
        value = getattr(self, name)
        if expected is float:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            self._check(name, number and abs(value) <= sys.float_info.max, "must be a finite number")
        elif not isinstance(value, expected) or isinstance(value, bool):
            self._check(name, False, f"must be of type {expected.__name__}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        self._check(name, getattr(self, name) in choices, f"must be one of {', '.join(choices)}")

    def _check(self, name: str, valid: bool, rule: str) -> None:
        if not valid:
            raise UsageError(f"LaneConfig.{name} {rule}; the study's suggest gave {getattr(self, name)!r}")
