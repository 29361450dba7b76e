"""What a study declares."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from sweep.errors import UsageError
from sweep.machine.user_code import line_of
from sweep.study.asked_trial import AskedTrial
from sweep.study.augmentation import NONE, OWN_FUNCTION, Augment, Cache, check_declared
from sweep.study.class_weights import ClassWeights, checked, of_lane
from sweep.study.halving import Halving
from sweep.study.lane_config import LaneConfig, Pool
from sweep.study.objectives import OTHER_OBJECTIVES, Direction, Objectives
from sweep.study.parameter_cells import range_text
from sweep.study.shape import shape_values, study_of_lane
from sweep.study.stored_values import plain, same_value, stored_parameter, stored_parameters
from sweep.study.structure import OWN_NETWORK, check_structure
from sweep.tasks.kinds import CLASSES, TASK_KINDS, TaskKind

if TYPE_CHECKING:
    import optuna
    from torch import Tensor

    from sweep.machine.precision import Precision  # PyTorch takes a second to import

Resize = Literal["centre", "crop", "squash"]
RESIZES = get_args(Resize)
DATA_OBJECTS = "objects of the study file"
"""What stands for data set objects in a run's record."""
MOST_WHOLE = 2**63 - 1
"""What PyTorch takes as a seed, and what tables hold."""

PLAIN = (
    *("max_rank", "image_size", "max_tokens", "group_size", "stages", "modules_per_block", "views", "trials", "epochs"),
    *("batch_size", "seed", "seeds"),
)
"""Declarations that may be NumPy's numbers."""

POSITIVE = ("group_size", "modules_per_block", "trials", "epochs", "batch_size", "seeds")


@dataclass(frozen=True)
class Space:
    """What is searched on a kind of task.

    Attributes:
        suggest: As of `Study`.
        baseline: As of `Study`.
    """

    suggest: Callable[["optuna.Trial"], LaneConfig]
    baseline: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "baseline", _stored_baseline(self.baseline))


@dataclass(frozen=True, kw_only=True)
class Study:
    """One search: a space, and what every trial of it shares.

    Attributes:
        suggest: Optuna's define-by-run: takes a trial, asks it for values, returns the lane's configuration.
        baseline: Parameter values of trial 0, the configuration that the others are to beat.
        max_rank: Largest rank that `suggest` may ask for; any rank if not given.
        rank_buckets: Ranks that lanes are padded to, each to the next above its own: lanes of one bucket train in one
            stack. If not given, buckets are chosen so that padding costs less than another stack would.
        side_network: The family: `"last"`, `"ladder"`, `"convolution"`, `"mixer"`, `"multi_stage"` or `"probe"`; see
            docs/side-networks.md. Or your own: `MyNet(shapes, n_classes, config)`, from a `sweep.Shapes` and a lane's
            configuration to a PyTorch module from stages to logits.
        attention: Whether a ladder has attention.
        mlp: Whether a ladder, with attention or with convolutions, has MLPs.
        read_out: What a ladder is classified by: `"pooled"` features, `"tokens"` by weights of each place, `"compact"`,
            the same through a product of width 32, or `"both"` pooled and tokens; `"class"` is pooled, of the class
            token.
        backbone: A name that `sweep backbones` lists, or your own, `./mine.py:build`.
        data: A data set's name, a folder or a file, as `--data` takes them; or data set objects by split, `"train"`,
            `"test"` and perhaps `"val"`, whose items are (Pillow image, label), such as torchvision's; or one of
            them under `"all"`, to be split.
        task: `"classes"`, `"multi-label"` or `"regression"`; chosen from the labels if not given.
        accept_licence: The licence that you accept, for data whose licence is restricted, as `sweep data` lists it.
        other_tasks: What to search, instead of `suggest` and `baseline`, where the task is of that kind.
        image_root: Of a table of images, the folder that its paths are relative to; the table's own if not given.
        path_column: Of a table of images, the column of paths; `path` if not given.
        label_column: Of a table, the column of labels; `label` if not given.
        image_size: Side of the backbone's input in pixels; the backbone's own if not given.
        resize: What becomes of an image that is no square. `"centre"` keeps its proportions and takes the largest
            square in its centre; `"crop"` takes somewhat less than that, as timm does; `"squash"` resizes the whole
            image to a square. If not given, your own data are taken as with `"centre"`, and the data sets that have a
            name, nearly all of them square, as with `"squash"`.
        max_tokens: Of every text, so many tokens are read; the backbone's own if not given.
        group_size: `g`, blocks between two stages.
        stages: Instead of `group_size`, how many stages behind `z_0` to spread over the backbone, or the blocks to tap
            after, counted from 1; None to follow `group_size`.
        modules_per_block: `T`, low-rank attention modules a stage.
        pool: The head reads the `"mean"` of the patch tokens or of a text's, the `"class"` token, or a text's `"last"`;
            if not given, the mean, or beside a text decoder the last.
        precision: Of products with frozen features, `"fp32"` or, on a GPU, `"bf16"`; everything else is fp32.
        augment: Of training images, at random: recipes by name, `"flip"`, `"crop"`, `"colour"` or several as in
            `"flip-crop"`; or a function from an RGB Pillow image to another, such as torchvision's transforms.
        views: Augmented views of every training image whose features are cached, and which epochs take in turn; 4 if
            not given.
        cache: `"off"` to compute the features of training images in every step, once for all lanes, from views that
            are fresh in every epoch, and to keep none of them.
        class_weights: How much images count in every loss: `"balanced"` for the same weight of all classes together,
            however many images each has; numbers by the name of a class, 1 for classes that are not named; or `"none"`.
        trials: Configurations to train.
        epochs: Passes over the training images or texts, for every trial.
        batch_size: Images, or texts, a step.
        test: Whether the winner and the linear probe are evaluated on the test data at the end.
        retrain: Whether the winner and the linear probe are trained again at the end, on the training and the
            validation data together; these are then evaluated on the test data, and exported.
        seed: Of the search, of initialisations (with the trial's number), of the data order and of a folder's split.
        seeds: Replicates of every configuration, lanes that differ in their initialisation; ranked by their mean.
        objectives: Measured names, each with `"maximize"` or `"minimize"`: `val_top1`, `val_mean_class_accuracy`,
            `val_worst_class_accuracy`, `val_nll`, `val_ece` (for other tasks those of `sweep.tasks.kinds`), `val_NAME`
            of your own metrics, `train_loss`, `trainable_parameters`, `inference_seconds` (of the side-network, one
            image). The first one names a winner. Not given, the task's score is maximised: top-1, mAP or R².
        metrics: Your own by name: each takes one lane's val logits `(n, C)` and labels `(n,)`, and returns a number.
            Labels are 0 and 1, or numbers in their own units as are then the lane's values, `(n, C)` for other tasks.
        halving: Rungs at which the weaker trials are stopped; None to train all to the end.
        sampler: A name in `sweep.search.samplers.SAMPLERS`, or an Optuna (or OptunaHub) sampler.
        grid: Values by parameter, for the sampler `"grid"`.

    Raises:
        UsageError: A value of the wrong type or out of its range.
    """

    suggest: Callable[["optuna.Trial"], LaneConfig]
    baseline: Mapping[str, Any]
    max_rank: int | None = None
    rank_buckets: Sequence[int] = ()
    side_network: str | Callable[..., Any] = "last"
    attention: bool = False
    mlp: bool = True
    read_out: str = "pooled"
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
    trials: int = 32
    epochs: int = 12
    batch_size: int = 32
    test: bool = True
    retrain: bool = False
    seed: int = 0
    seeds: int = 1
    objectives: Mapping[str, Direction] | None = None
    metrics: Mapping[str, Callable[["Tensor", "Tensor"], float]] = field(default_factory=dict)
    halving: Halving | None = None
    sampler: "str | optuna.samplers.BaseSampler" = "tpe"
    grid: Mapping[str, Sequence[Any]] | None = None

    def __post_init__(self) -> None:
        if not callable(self.suggest):
            raise UsageError(f"Study.suggest must be a function of a trial, not {self.suggest!r}")
        for name in PLAIN:
            object.__setattr__(self, name, plain(getattr(self, name)))
        object.__setattr__(self, "baseline", _stored_baseline(self.baseline))
        if not isinstance(self.backbone, str):
            raise UsageError(f"Study.backbone must be a str, not {self.backbone!r}")
        self._check_data()
        for name in POSITIVE:
            self._check_whole(name, getattr(self, name), least=1)
        self._check_whole("seed", self.seed, least=0)
        for name in ("image_size", "max_tokens", "max_rank"):
            if getattr(self, name) is not None:
                self._check_whole(name, getattr(self, name), least=1)
        if not all(isinstance(bucket, int) and bucket > 0 for bucket in self.rank_buckets):
            raise UsageError(f"Study.rank_buckets must be positive whole numbers, not {self.rank_buckets!r}")
        object.__setattr__(self, "rank_buckets", tuple(sorted(set(self.rank_buckets))))
        if not isinstance(self.stages, int | None):
            self._check_stages(self.stages)
        if self.pool not in (None, "mean", "class", "last"):
            raise UsageError(f"pool must be 'mean', 'class' or 'last', not {self.pool!r}")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision must be 'fp32' or 'bf16', not {self.precision!r}")
        object.__setattr__(self, "class_weights", checked(plain(self.class_weights)))
        self._check_halving()
        self._check_ending()
        check_structure(self.side_network, self.attention, self.mlp, self.read_out)
        check_declared(self.augment, self.views, self.cache)
        if self.grid is not None:
            object.__setattr__(self, "grid", _stored_grid(self.grid))
        self._check_tasks()
        self._check_objectives()

    def _check_halving(self) -> None:
        if self.halving is not None and not isinstance(self.halving, Halving):
            raise UsageError(f"Study.halving must be a sweep.Halving or None, not {self.halving!r}")

    def _check_data(self) -> None:
        if not isinstance(self.data, str | Mapping):
            raise UsageError(f"Study.data must be a str, or map splits to data sets, not {self.data!r}")
        for name in ("image_root", "path_column", "label_column"):
            if not isinstance(getattr(self, name), str | None):
                raise UsageError(f"Study.{name} must be a str, not {getattr(self, name)!r}")
        if self.resize not in (None, *RESIZES):
            raise UsageError(
                f"resize must be {', '.join(map(repr, RESIZES))}, not {self.resize!r} (--resize, or the study file)"
            )

    def _check_tasks(self) -> None:
        if not isinstance(self.accept_licence, str | None):
            raise UsageError(f"Study.accept_licence must be a str, not {self.accept_licence!r}")
        known = ", ".join(TASK_KINDS)
        if self.task is not None and (not isinstance(self.task, str) or self.task not in TASK_KINDS):
            raise UsageError(f"task must be one of {known}, not {self.task!r} (--task, or the study file)")
        for task, space in self.other_tasks.items():
            if task not in TASK_KINDS or not isinstance(space, Space):
                raise UsageError(
                    f"Study.other_tasks has {task!r}: {space!r}; give a sweep.Space for each of {known} that is to "
                    f"have its own"
                )

    def _check_ending(self) -> None:
        for name in ("test", "retrain"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"Study.{name} must be True or False, not {getattr(self, name)!r}")

    def _check_stages(self, stages: object) -> None:
        if not isinstance(stages, list | tuple) or not all(isinstance(block, int) for block in stages):
            raise UsageError(f"Study.stages must be a number, or numbers of blocks, not {stages!r}")
        object.__setattr__(self, "stages", tuple(stages))

    def _check_objectives(self) -> None:
        kinds = TASK_KINDS.values() if self.task is None else [self.kind]
        measured = dict.fromkeys(name for kind in kinds for name in kind.metrics)
        for name, metric in self.metrics.items():
            if not callable(metric) or not str(name).isidentifier() or name in self.kind.metrics:
                raise UsageError(
                    f"Study.metrics has {name!r}: {metric!r}; give a function of logits and labels under a new name"
                )
        if self.objectives is None:
            return
        known = [*(f"val_{name}" for name in (*measured, *self.metrics)), *OTHER_OBJECTIVES]
        if not self.objectives:
            raise UsageError(f"Study.objectives is empty; leave it out for {dict(self.ranking.directions)}")
        for name, direction in self.objectives.items():
            if name not in known:
                whose = "" if self.task is None else f", and the data make a task of the kind {self.task}"
                raise UsageError(f"Study.objectives has {name!r}{whose}; give one of {', '.join(known)}")
            if direction not in ("maximize", "minimize"):
                raise UsageError(f"Study.objectives[{name!r}] must be 'maximize' or 'minimize', not {direction!r}")

    @property
    def kind(self) -> TaskKind:
        """The kind of task; of classes as long as nobody has said."""
        return CLASSES if self.task is None else TASK_KINDS[self.task]

    @property
    def ranking(self) -> Objectives:
        """The order that the objectives give trials."""
        return Objectives(self.objectives or {f"val_{self.kind.score}": "maximize"}, f"val_{self.kind.tie}")

    def on(self, kind: TaskKind) -> "Study":
        """The study on data that make a task of that kind: with the space that it declares for it.

        Raises:
            UsageError: An objective is not measured there.
        """
        space = self.other_tasks.get(kind.name)
        own = {} if space is None else {"suggest": space.suggest, "baseline": space.baseline}
        return self.override(task=kind.name, **own)

    @staticmethod
    def _check_whole(name: str, value: object, least: int) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= cast(int, value) <= MOST_WHOLE:
            most = "" if not whole or cast(int, value) < least else " and below 2^63"
            option = name.replace("_", "-")
            raise UsageError(
                f"{name} must be a whole number of at least {least}{most}, not {value!r} "
                f"(--{option}, or the study file)"
            )

    def declarations(self) -> dict[str, Any]:
        """Everything but the functions, as JSON can hold it, for the run's record."""
        declared = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("suggest", "other_tasks")}
        return {
            **declared,
            "data": self.data if isinstance(self.data, str) else DATA_OBJECTS,
            "side_network": self.side_network if isinstance(self.side_network, str) else OWN_NETWORK,
            "augment": self.augment if isinstance(self.augment, str) else OWN_FUNCTION,
            "objectives": dict(self.ranking.directions),
            "metrics": list(self.metrics),
            "halving": None if self.halving is None else asdict(self.halving),
            "sampler": self.sampler if isinstance(self.sampler, str) else type(self.sampler).__name__,
            "grid": None if self.grid is None else {name: list(values) for name, values in self.grid.items()},
        }

    def override(self, **values: Any) -> "Study":
        """The study with other declarations; None leaves the study's own.

        A given `group_size` ends its `stages`; `augment="none"` or `cache="off"` end its `views`.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if "group_size" in given:
            given.setdefault("stages", None)
        if given.get("augment") == NONE or given.get("cache") == "off":
            given.setdefault("views", None)
        return replace(self, **given)

    def check_baseline(self) -> None:
        """Ask `suggest` for trial 0 before anything costs time.

        Raises:
            UsageError: See `check_fixed`.
        """
        self.check_fixed(self.baseline, "the study's baseline", partial=False)

    def check_enqueued(self, enqueued: Sequence[Mapping[str, Any]]) -> None:
        """Ask `suggest` for trials that the user has fixed, in part or, for a grid, in whole.

        Raises:
            UsageError: See `check_fixed`.
        """
        for number, params in enumerate(enqueued, start=1):
            self.check_fixed(params, f"enqueued trial {number}", partial=self.sampler != "grid")

    def check_fixed(self, params: Mapping[str, Any], whose: str, *, partial: bool) -> None:
        """Ask `suggest` for a trial whose parameters are given.

        Args:
            params: Values by name.
            whose: How a message begins.
            partial: Whether parameters may be missing.

        Raises:
            UsageError: A parameter that `suggest` asks for is missing, one is named that it does not ask for, or a
                value lies outside its range; or `suggest` itself fails.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        rehearsal = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        rehearsal.enqueue_trial(dict(params))
        trial = rehearsal.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of a value out of range; below it is an error
            try:
                self.lane_config(trial)
            except UsageError as error:
                raise UsageError(f"with the values of {whose}, {error}") from error
        if not partial and (missing := sorted(set(trial.params) - set(params))):
            raise UsageError(f"{whose} lacks {', '.join(missing)}, which its suggest asks for")
        for name, value in params.items():
            if name not in trial.params:
                asked = ", ".join(trial.params) or "nothing"
                raise UsageError(f"{whose} names {name!r}; its suggest asks for {asked}")
            distribution = trial.distributions[name]
            inside = same_value(trial.params[name], value)
            if not (inside and distribution._contains(distribution.to_internal_repr(value))):
                raise UsageError(f"{whose} has {name} = {value!r}, and suggest asks for {range_text(distribution)}")

    def lane_config(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> LaneConfig:
        """Ask `suggest` for one configuration.

        Raises:
            UsageError: `suggest` raised, returned something else, or asked for a rank above `max_rank`, for a loss
                that does not fit the task, or for a shape that no study can declare.
        """
        try:
            config = self.suggest(cast("optuna.Trial", AskedTrial(trial)))
            if isinstance(config, LaneConfig) and config.class_weights is None:
                config = replace(config, class_weights=of_lane(self.class_weights))
            if self.task is not None and isinstance(config, LaneConfig):
                config = config.on(self.kind)
        except UsageError as error:
            raise UsageError(f"{error} ({line_of(self.suggest, error)})") from error
        except Exception as error:
            raise UsageError(
                f"the study's suggest failed: {type(error).__name__}: {error} ({line_of(self.suggest, error)})"
            ) from error
        if not isinstance(config, LaneConfig):
            raise UsageError(f"the study's suggest must return a sweep.LaneConfig, not {config!r}")
        if self.max_rank is not None and config.rank > self.max_rank:
            raise UsageError(
                f"the study's suggest asked for rank {config.rank}, above its max_rank {self.max_rank}; "
                f"raise max_rank or lower the rank"
            )
        study_of_lane(self, config)  # raises where the lane's shape cannot be declared
        own: dict[str, Any] = {
            name: None for name, value in shape_values(config).items() if value == getattr(self, name)
        }
        return replace(config, **own) if own else config


def _stored_baseline(baseline: object) -> dict[str, Any]:
    """The baseline as Optuna's storage holds it.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(baseline, Mapping) or not all(isinstance(name, str) for name in baseline):
        raise UsageError(f"Study.baseline must map names of parameters to values, not be {baseline!r}")
    return stored_parameters(baseline)


def _stored_grid(grid: object) -> dict[str, list[Any]]:
    """The values of a grid as Optuna's storage holds them.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(grid, Mapping):
        raise UsageError(f"Study.grid must map names of parameters to lists of values, not be {grid!r}")
    lists = {str(name): plain(values) for name, values in grid.items()}
    for name, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UsageError(f"Study.grid has {name!r}: {values!r}; give a list of at least one value")
    return {name: [stored_parameter(name, value) for value in values] for name, values in lists.items()}
