"""The declaration of a study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from sweep.study.asking import lane_config
from sweep.study.augmentation import NONE, OWN_FUNCTION, Augment, Cache
from sweep.study.class_weights import ClassWeights, checked
from sweep.study.declaration_checks import check_declarations, stored_grid
from sweep.study.folds import fold_of, lanes_per_trial
from sweep.study.halving import Halving
from sweep.study.label_words import LabelWords, checked_words
from sweep.study.lane_config import LaneConfig, Pool
from sweep.study.objectives import Direction, Objectives
from sweep.study.space import Space, stored_baseline
from sweep.study.stored_values import plain
from sweep.study.structure import OWN_NETWORK
from sweep.tasks.kinds import CLASSES, TASK_KINDS, TaskKind
from sweep.tasks.own_losses import OwnLoss, own_loss

if TYPE_CHECKING:
    import optuna
    from torch import Tensor

    from sweep.machine.precision import Precision  # PyTorch takes a second to import

Resize = Literal["centre", "crop", "squash"]
DATA_OBJECTS = "objects of the study file"
"""The text that a run's record has in place of data set objects."""

PLAIN = (
    *("max_rank", "image_size", "max_tokens", "group_size", "stages", "modules_per_block", "views", "trials", "epochs"),
    *("parts", "head_stages", "head_cells", "batch_size", "seed", "seeds", "folds", "repeats"),
)
"""Declarations that may be given as NumPy numbers."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The declaration of one search: its space, and what all its trials share.

    Attributes:
        suggest: The space, as a define-by-run function: it takes an Optuna trial, asks it for values, and returns the
            lane's configuration: a `LaneConfig`, or a dataclass that inherits from it and has further fields.
        baseline: Parameter values of trial 0, the configuration that the others should beat.
        enqueue: Configurations to try after the baseline, before the sampler chooses freely: parameters by name. The
            sampler chooses the parameters that are missing.
        fixed: Names of declarations that hold for every trial, also where `suggest` chooses something else, such as
            `("augment",)`. Those that options of `sweep run` replace are fixed for that run.
        max_rank: Largest rank that `suggest` may ask for; if not given, any rank.
        rank_buckets: Ranks that lanes are padded to. A lane is padded to the smallest bucket that it fits into, and the
            lanes of one bucket train in one stack. If not given, buckets are chosen so that padding costs less than
            another stack would.
        side_network: The family: `"last"`, `"granular_last"`, `"gated_last"`, `"ladder"`, `"convolution"`,
            `"full_convolution"`, `"mixer"`, `"multi_stage"` or `"probe"`; see docs/side-networks.md. Or your own
            `MyNet(shapes, n_classes, config)`: it takes a `sweep.Shapes` and a lane's configuration, and returns a
            PyTorch module that maps stages to logits.
        attention: Whether a ladder has attention.
        mlp: Whether a ladder with attention or with convolutions has MLPs.
        read_out: What the head of a ladder reads: `"pooled"` features; `"attention"`, the same with learned weights of
            the stream's tokens; `"tokens"`, with weights for each position; `"compact"`, the same through a bottleneck
            of width 32; `"both"` pooled and tokens; or `"class"`, the class token.
        parts: Number of parts into which `granular_last` divides the channels and the rank. If not given, 2 up to rank
            32, and 4 above.
        head_stages: For segmentation and detection, how many stages the head reads: the last ones, or all but `z_0` if
            there are fewer.
        head_cells: For segmentation, for how many rows and columns of places a token answers: 1, 2 or 4. Detection
            always has 2.
        backbone: A name that `sweep backbones` lists, or your own, as `./mine.py:build`.
        data: The name of a data set, or a folder or file that `--data` accepts. Or data set objects by split, with the
            keys `"train"`, `"test"` and optionally `"val"`; their items are (Pillow image, label), as in torchvision's
            data sets. One object under the key `"all"` is split.
        task: `"classes"`, `"multi-label"`, `"regression"`, `"segmentation"` or `"detection"`; if not given, chosen from
            the data.
        accept_licence: The licence that you accept, for data with a restricted licence; `sweep data` lists them.
        other_tasks: By kind of task, the space that replaces `suggest` and `baseline` on data of that kind.
        image_root: For a table of images, the folder that its paths are relative to; if not given, the table's folder.
        path_column: For a table of images, the column of paths; if not given, `path`.
        label_column: For a table, the column of labels; if not given, `label`.
        image_size: Side of the backbone's input in pixels; if not given, the backbone's own.
        resize: How an image that is not square becomes the backbone's square. `"centre"` keeps the aspect ratio and
            takes the largest square in the centre; `"crop"` takes a little less, as timm does; `"squash"` resizes the
            whole image. If not given, `"centre"` for your own data, and `"squash"` for images with masks or boxes, for
            data sets that have a name, and for tasks of VTAB-1K.
        max_tokens: Largest number of tokens that are read from a text; if not given, 128, or the network's limit.
        group_size: Blocks between two stages, `g`.
        stages: Replaces `group_size`. Either the number of stages after `z_0`, spread evenly over the backbone, or the
            numbers of the blocks whose outputs are the stages, counted from 1. None means that `group_size` holds.
        modules_per_block: Low-rank attention modules per stage, `T`.
        pool: What the head reads: the `"mean"` of the patch tokens (or of all tokens of a text), the `"class"` token,
            or a text's `"last"` token. If not given, the last token for text decoders, else the mean.
        precision: Precision of products with frozen features: `"fp32"`, or `"bf16"` on a GPU. All else is fp32.
        augment: Random augmentation of training images: a recipe (`"flip"`, `"crop"`, `"colour"`, `"affine"`, or
            several as in `"flip-crop"`), or a function from one RGB Pillow image to another, such as torchvision's
            transforms.
        views: Number of augmented views of every training image whose features are cached. Epochs use them in turn. If
            not given, 4. Where `suggest` chooses the augmentation, this is for the trials that have one.
        cache: `"off"` to compute the features of training images in every step, once for all lanes, from new views in
            every epoch, and to store none of them.
        class_weights: How much images count in the loss: `"balanced"` lets all classes count alike, however many images
            each has; numbers by class name (1 for classes that are not named); or `"none"`. If not given, all images
            count alike.
        label_words: For texts beside a language model: whether heads start from the rows that the classes' names have
            in the vocabulary, so that an untrained side-network is better than chance. Or words by class name, for
            classes whose names are no words.
        trials: Number of configurations to train.
        epochs: Passes over the training set in every trial.
        batch_size: Images or texts per step.
        test: Whether the winner and the linear probe are evaluated on the test set at the end.
        retrain: Whether the winner and the linear probe are trained again at the end, on the training and validation
            sets together. These models are then the ones that are evaluated on the test set and exported.
        seed: Seed of the search, of initialisations (with the trial's number), of the data order, and of the split of
            data that come without one.
        seeds: Replicates of every configuration. They differ in their initialisation; trials are ranked by their mean.
        folds: For cross-validation: the images of train and val together are divided into this many parts, and every
            trial is trained once for each part, on all images outside it. Trials are ranked by the mean of what is
            measured on the parts. The winner is trained again at the end, as with `retrain`. 0 for none.
        repeats: How often the images are divided, each time in another way.
        objectives: Names of metrics, each with `"maximize"` or `"minimize"`: `val_top1`, `val_mean_class_accuracy`,
            `val_worst_class_accuracy`, `val_nll`, `val_ece` (for other tasks those of `sweep.tasks.kinds`), `val_NAME`
            for your own metrics, `train_loss`, `trainable_parameters`, and `inference_seconds` (of the side-network,
            for one image). The first objective decides the winner. If not given, the task's score is maximised: top-1,
            mAP, R², mIoU or AP.
        metrics: Your own metrics by name. Each takes one lane's logits `(n, C)` on the validation set and the labels
            `(n,)`, and returns a number. For multi-label tasks the labels are 0 or 1, `(n, C)`. For regression, labels
            and outputs are `(n, C)` numbers in the units of the data.
        losses: Your own losses by name, for `LaneConfig(loss=NAME)`. Each is a function of one lane's outputs `(B, C)`
            and the labels, as PyTorch's losses are, and returns the loss of every image, `(B,)`. It may have further
            parameters, which get the values of `LaneConfig.extra` with the same names.
        halving: Rungs at which weak trials are stopped; None to train all trials to the end.
        sampler: A name in `sweep.search.samplers.SAMPLERS`, or an Optuna (or OptunaHub) sampler.
        grid: Values by parameter, for the sampler `"grid"`.

    Raises:
        UsageError: A value has the wrong type or is out of its range.
    """

    suggest: Callable[["optuna.Trial"], LaneConfig]
    baseline: Mapping[str, Any]
    enqueue: Sequence[Mapping[str, Any]] = ()
    fixed: Sequence[str] = ()
    max_rank: int | None = None
    rank_buckets: Sequence[int] = ()
    side_network: str | Callable[..., Any] = "last"
    attention: bool = False
    mlp: bool = True
    read_out: str = "pooled"
    parts: int | None = None
    head_stages: int = 1
    head_cells: int = 1
    backbone: str = "dinov2_small_focus"
    data: str | Mapping[str, Any] = "count"
    task: str | None = None
    accept_licence: str | None = None
    other_tasks: Mapping[str, Space] = field(default_factory=dict)
    image_root: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    image_size: int | None = None
    resize: Resize | None = None
    max_tokens: int | None = None
    group_size: int = 1
    stages: int | Sequence[int] | None = None
    modules_per_block: int = 1
    pool: Pool | None = None
    precision: "Precision" = "fp32"
    augment: str | Augment = NONE
    views: int | None = None
    cache: Cache = "on"
    class_weights: ClassWeights = None
    label_words: LabelWords = False
    trials: int = 32
    epochs: int = 12
    batch_size: int = 32
    test: bool = True
    retrain: bool = False
    seed: int = 0
    seeds: int = 1
    folds: int = 0
    repeats: int = 1
    objectives: Mapping[str, Direction] | None = None
    metrics: Mapping[str, Callable[["Tensor", "Tensor"], float]] = field(default_factory=dict)
    losses: Mapping[str, OwnLoss] = field(default_factory=dict)
    halving: Halving | None = None
    sampler: "str | optuna.samplers.BaseSampler" = "tpe"
    grid: Mapping[str, Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        for name in PLAIN:
            object.__setattr__(self, name, plain(getattr(self, name)))
        object.__setattr__(self, "baseline", stored_baseline(self.baseline))
        if self.grid is not None:
            object.__setattr__(self, "grid", stored_grid(self.grid))
        object.__setattr__(self, "class_weights", checked(plain(self.class_weights)))
        object.__setattr__(self, "label_words", checked_words(self.label_words))
        check_declarations(self)
        for name, loss in self.losses.items():
            own_loss(name, loss)
        object.__setattr__(self, "rank_buckets", tuple(sorted(set(self.rank_buckets))))
        object.__setattr__(self, "fixed", tuple(self.fixed))
        if isinstance(self.stages, list):
            object.__setattr__(self, "stages", tuple(self.stages))

    @property
    def lanes_per_trial(self) -> int:
        """Number of lanes that train one configuration."""
        return lanes_per_trial(self.seeds, self.folds, self.repeats)

    @property
    def trains_again(self) -> bool:
        """Whether the winner is trained again at the end. With folds, no lane of it has learned from all images."""
        return self.retrain or self.folds > 0

    def fold_of(self, replicate: int) -> int | None:
        """The fold of one of a trial's lanes; see `sweep.study.folds.fold_of`."""
        return fold_of(replicate, self.folds, self.repeats)

    @property
    def kind(self) -> TaskKind:
        """The kind of task; classes until the data or the user say otherwise."""
        return CLASSES if self.task is None else TASK_KINDS[self.task]

    @property
    def ranking(self) -> Objectives:
        """The objectives that rank trials."""
        return Objectives(self.objectives or {f"val_{self.kind.score}": "maximize"}, f"val_{self.kind.tie}")

    def on(self, kind: TaskKind) -> "Study":
        """The study for data of a kind of task, with the space that it declares for that kind.

        Raises:
            UsageError: An objective is not measured on this kind of task.
        """
        space = self.other_tasks.get(kind.name)
        own = {} if space is None else {"suggest": space.suggest, "baseline": space.baseline, "enqueue": ()}
        return self.override(task=kind.name, **own)

    def declarations(self) -> dict[str, Any]:
        """All declarations for the run's record, as JSON can hold them. Functions and objects are replaced by texts."""
        declared = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("suggest", "other_tasks", "enqueue")
        }
        return {
            **declared,
            "data": self.data if isinstance(self.data, str) else DATA_OBJECTS,
            "side_network": self.side_network if isinstance(self.side_network, str) else OWN_NETWORK,
            "augment": self.augment if isinstance(self.augment, str) else OWN_FUNCTION,
            "objectives": dict(self.ranking.directions),
            "metrics": list(self.metrics),
            "losses": list(self.losses),
            "halving": None if self.halving is None else asdict(self.halving),
            "sampler": self.sampler if isinstance(self.sampler, str) else type(self.sampler).__name__,
            "grid": None if self.grid is None else {name: list(values) for name, values in self.grid.items()},
        }

    def override(self, **values: Any) -> "Study":
        """The study with some declarations replaced. A value of None keeps the study's own.

        A `group_size` removes the declared `stages`; `augment="none"` and `cache="off"` remove the declared `views`.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if "group_size" in given:
            given.setdefault("stages", None)
        if given.get("augment") == NONE or given.get("cache") == "off":
            given.setdefault("views", None)
        return replace(self, **given)

    def lane_config(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> LaneConfig:
        """Ask `suggest` for one configuration; see `sweep.study.asking.lane_config`.

        Raises:
            UsageError: `suggest` raised an error, or its configuration cannot be trained in this study.
        """
        return lane_config(self, trial)
