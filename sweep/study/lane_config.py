"""The configuration of one lane."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from sweep.errors import UsageError
from sweep.study.class_weights import UNWEIGHTED, LaneWeights, checked_lane
from sweep.study.stored_values import plain
from sweep.tasks.kinds import DETECTION, MULTI_LABEL, REGRESSION, SEGMENTATION, TASK_KINDS, TaskKind
from sweep.tasks.own_losses import given_names, is_own

Pool = Literal["mean", "class", "last"]
"""What the head reads: the mean of the patch tokens (or of a text's tokens), the class token, or the last token."""

SHAPE_FIELDS = (
    *("backbone", "image_size", "stages", "modules_per_block", "pool", "batch_size", "precision"),
    *("augment", "views", "side_network", "attention", "mlp", "read_out", "parts"),
    *("head_stages", "head_cells"),
)
"""Fields that decide which stack a lane trains in. None means that the study's declaration holds."""

FIXABLE = (*SHAPE_FIELDS, "class_weights")
"""Fields that a study declares too, and that it can fix; see `sweep.study.fixed`."""

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine")
LOSSES = tuple(dict.fromkeys(loss for kind in TASK_KINDS.values() for loss in kind.losses))


class Extra(dict[str, Any]):
    """The values in `LaneConfig.extra`: a dictionary that has a hash, and that must not be changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    @staticmethod
    def takes(values: object) -> bool:
        """Whether these values are allowed: finite numbers, texts and booleans by name."""
        return isinstance(values, Mapping) and all(
            isinstance(name, str)
            and isinstance(value, bool | int | float | str)
            and not (isinstance(value, float) and not math.isfinite(value))
            for name, value in values.items()
        )


@dataclass(frozen=True, kw_only=True)
class LaneConfig:
    """Hyperparameters of one lane. A study's `suggest(trial)` returns one of these.

    Attributes:
        lr: Peak learning rate of the side modules.
        head_lr_ratio: The head's learning rate as a multiple of `lr`.
        rank: Rank `r` of the lane's modules, at most the study's `max_rank` if it declares one.
        optimizer: `"adamw"` or `"sgd"` (with momentum).
        clip_norm: Largest norm of the lane's gradient, over all parameters together; None for no clipping.
        weight_decay: Weight decay: decoupled for AdamW, added to the gradient for SGD. Biases and norms have none.
        beta1: First-moment decay of AdamW.
        beta2: Second-moment decay of AdamW.
        eps: Denominator term of AdamW.
        momentum: Momentum of SGD.
        schedule: `"cosine"` to zero or `"constant"`, both after a linear warm-up.
        warmup_epochs: Length of the warm-up in epochs, fractions allowed.
        dropout: Dropout probability of the head's normalised inputs.
        rank_penalty: Strength of the penalty on the gates of a learned rank, `λ`; for `gated_last` only.
        loss: For classes `"cross_entropy"`, `"focal"`, `"logit_adjusted"` or `"bce"` (one-vs-all); for several labels
            per image `"bce"` or `"asymmetric"`; for regression `"mse"` or `"huber"`; for segmentation `"cross_entropy"`
            or `"dice"`; for detection `"focal_giou"`. Or the name of a loss that the study declares in `losses`. None
            for the first loss of the task.
        label_smoothing: Probability moved from the label to all classes; for `cross_entropy` only.
        focal_gamma: Focusing exponent; for `focal` and `focal_giou` only.
        logit_adjustment: Weight of the log class priors; for `logit_adjusted` only.
        asymmetric_gamma_positive: Focusing exponent for labels that an image has; for `asymmetric` only.
        asymmetric_gamma_negative: Focusing exponent for labels that an image does not have; for `asymmetric` only.
        asymmetric_margin: Probability up to which a label that the image does not have costs nothing; for `asymmetric`
            only.
        class_weights: How much the images of each class count in the loss: `"balanced"`, numbers in the order of the
            classes, or `"none"`. None means that the study's declaration holds.
        extra: Further values by name (numbers, texts or booleans), for a side-network or a loss of the study's own.
            They are attributes too: `config.scale` is `config.extra["scale"]`.
        huber_delta: Error above which the loss is linear, in standard deviations of the target in the training set; for
            `huber` only.
        backbone: Replaces the study's backbone. This field and those below decide the lane's shape: lanes of equal
            shape train in one stack. None means that the study's declaration holds; see `Study` for the meanings.
        image_size: Replaces the study's.
        stages: Replaces the study's.
        modules_per_block: Replaces the study's.
        pool: Replaces the study's.
        batch_size: Replaces the study's.
        precision: Replaces the study's.
        augment: A recipe's name; replaces the study's augmentation.
        views: Replaces the study's.
        side_network: A family's name; replaces the study's side-network.
        attention: Replaces the study's.
        mlp: Replaces the study's.
        read_out: Replaces the study's.
        parts: Replaces the study's.
        head_stages: Replaces the study's.
        head_cells: Replaces the study's.

    Raises:
        UsageError: A value has the wrong type or is out of its range.
    """

    lr: float
    head_lr_ratio: float = 1.0
    rank: int = 8
    optimizer: str = "adamw"
    clip_norm: float | None = None
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    dropout: float = 0.0
    rank_penalty: float = 3e-3
    loss: str | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    logit_adjustment: float = 1.0
    asymmetric_gamma_positive: float = 0.0
    asymmetric_gamma_negative: float = 4.0
    asymmetric_margin: float = 0.05
    huber_delta: float = 1.0
    class_weights: LaneWeights = None
    extra: Mapping[str, Any] = field(default_factory=Extra)
    backbone: str | None = None
    image_size: int | None = None
    stages: int | Sequence[int] | None = None
    modules_per_block: int | None = None
    pool: Pool | None = None
    batch_size: int | None = None
    precision: str | None = None
    augment: str | None = None
    views: int | None = None
    side_network: str | None = None
    attention: bool | None = None
    mlp: bool | None = None
    read_out: str | None = None
    parts: int | None = None
    head_stages: int | None = None
    head_cells: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "extra", plain(self.extra))
        self._check("extra", Extra.takes(self.extra), "must map names to numbers, texts or booleans")
        object.__setattr__(self, "extra", Extra(self.extra))
        if isinstance(self.stages, Sequence):
            object.__setattr__(self, "stages", tuple(self.stages))
        for name, expected in _declared():
            value = getattr(self, name)
            if (as_plain := plain(value)) is not value:
                object.__setattr__(self, name, as_plain)
            if name not in (*SHAPE_FIELDS, "class_weights"):  # the study checks the shape's
                self._check_type(name, expected)
        object.__setattr__(self, "class_weights", checked_lane(self.class_weights))
        self._check_choice("optimizer", OPTIMIZERS)
        self._check_choice("schedule", SCHEDULES)
        if self.loss is not None and not is_own(self.loss):
            self._check_choice("loss", (*LOSSES, *given_names()))
        for name in ("lr", "head_lr_ratio", "eps", "huber_delta"):
            self._check(name, getattr(self, name) > 0, "must be above 0")
        for name in (
            *("weight_decay", "warmup_epochs", "focal_gamma", "logit_adjustment"),
            *("asymmetric_gamma_positive", "asymmetric_gamma_negative", "rank_penalty"),
        ):
            self._check(name, getattr(self, name) >= 0, "must not be negative")
        self._check("clip_norm", self.clip_norm is None or self.clip_norm > 0, "must be above 0, or None")
        for name in (
            *("beta1", "beta2", "momentum"),
            *("dropout", "label_smoothing", "asymmetric_margin"),
        ):  # 0.9999999 would round to 1 in fp32
            self._check(name, 0 <= getattr(self, name) <= 0.999999, "must be at least 0 and below 1")
        self._check("rank", self.rank >= 1, "must be at least 1")

    if not TYPE_CHECKING:  # a type checker shall still refuse names that no field has

        def __getattr__(self, name: str) -> Any:
            """A value in `extra`, so that the fields of a study's own dataclass can be read by their names."""
            try:
                return vars(self)["extra"][name]
            except KeyError:
                message = f"a lane's configuration has no field {name!r}, and no such value in extra"
                raise AttributeError(message) from None

    def on(self, kind: TaskKind) -> "LaneConfig":
        """The configuration for a kind of task: a missing loss becomes the first loss of that kind.

        Raises:
            UsageError: Its loss is for another kind of task; or it has class weights or dropout, and the kind of task
                has none.
        """
        if kind is REGRESSION and self.class_weights not in (None, UNWEIGHTED):
            raise UsageError(
                f"class_weights is {self.class_weights!r}, but the data make a regression, which has no classes; leave "
                f"it out, or give --class-weights none"
            )
        loss = kind.losses[0] if self.loss is None else self.loss
        if loss not in kind.losses and not is_own(loss):
            raise UsageError(
                f"LaneConfig.loss is {loss!r}, but the data make a task of the kind {kind.name}, whose losses are "
                f"{', '.join(kind.losses)}; give one of them, or none"
            )
        if is_own(loss) and kind is DETECTION:
            raise UsageError(
                f"LaneConfig.loss is a loss of the study file, and detection has none but its own, {kind.losses[0]}; "
                f"leave the loss out"
            )
        of_many = kind in (MULTI_LABEL, SEGMENTATION)
        if is_own(loss) and of_many and self.class_weights not in (None, UNWEIGHTED):
            raise UsageError(
                f"class_weights is {self.class_weights!r}, but a loss of the study file gives one number for all "
                f"labels of an image; weigh the labels in the loss, or leave class_weights out"
            )
        if kind in (SEGMENTATION, DETECTION) and self.dropout:
            raise UsageError(
                f"LaneConfig.dropout is {self.dropout}, but the data make a {kind.name}, whose heads have no dropout; "
                f"leave it out"
            )
        return self if loss == self.loss else replace(self, loss=loss)

    def as_recorded(self) -> dict[str, Any]:
        """All fields by name, without those shape fields that are None."""
        values = {declared.name: getattr(self, declared.name) for declared in fields(self)}
        return {name: value for name, value in values.items() if not (name in SHAPE_FIELDS and value is None)}

    def _check_type(self, name: str, expected: Any) -> None:
        value = getattr(self, name)
        if expected == float | None and value is None:
            return
        if expected in (float, float | None):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            self._check(name, number and abs(value) <= sys.float_info.max, "must be a finite number")
        elif not isinstance(value, expected) or isinstance(value, bool):
            self._check(name, False, f"must be of type {getattr(expected, '__name__', expected)}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        self._check(name, getattr(self, name) in choices, f"must be one of {', '.join(choices)}")

    def _check(self, name: str, valid: bool, rule: str) -> None:
        if not valid:
            raise UsageError(f"LaneConfig.{name} {rule}; the study's suggest gave {getattr(self, name)!r}")


@cache
def _declared() -> tuple[tuple[str, Any], ...]:
    """Names and types of all fields but `extra`. A survey of a study makes hundreds of configurations."""
    return tuple((declared.name, declared.type) for declared in fields(LaneConfig) if declared.name != "extra")
