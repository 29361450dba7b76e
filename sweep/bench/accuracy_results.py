"""The results of the accuracy suite, and how its methods compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sweep.machine.checked_files import LARGEST_WHOLE
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import CLASSES

STUDY, TEXT_STUDY = "mini_vtab", "text_lr_rank"
"""The studies that tune LAST on images and on texts."""

FAMILY_STUDY = "side_networks"
"""The study whose search space the other families have."""

IN_JSON: Mapping[Any, Any] = {float: int | float, float | None: int | float | None, Mapping[str, Any]: dict}
"""Types in JSON of those entries of a row that differ from the entry's own type."""

LAST, PROBE, LORA = "last", "linear_probe", "lora"
VARIANTS = ("granular_last", "gated_last")
"""Variants of LAST, which are searched by LAST's own study."""

FAMILIES = ("ladder", "convolution", "multi_stage", "mixer", *VARIANTS)
"""Families of side-networks beside LAST, each searched alone: the variants of LAST by its study, the others by the
study `side_networks`."""

BEST = "best family"
"""Stands for the family, LAST included, that is best on val: task by task, chosen as a user would."""


@dataclass(frozen=True)
class AccuracySizes:
    """The sizes of the accuracy benchmark.

    Attributes:
        suite: The data: a single task or several, as `--data` takes them.
        kind: What the data are, images or texts.
        backbone: Name of the backbone; None for that of the study.
        accept_licence: The licence that the user accepts, for data whose licence is restricted.
        image_size: Side of the backbone's input in pixels; None for the backbone's own, and for texts.
        n_configs: Configurations of LAST, which train in one stack.
        n_family_configs: Trials of every other family, of which rungs stop two thirds after a fifth of the epochs and
            again after three fifths.
        n_lora_configs: Configurations of LoRA, at most.
        n_seeds: Replicates of each configuration, and trainings of the winner before its test.
        epochs: Epochs of LAST and of LoRA; the probe gets four times as many.
        family_epochs: Epochs of the other families; their rungs move in proportion.
        device: PyTorch's name of the device.
        lora_tasks: Those of several tasks on which LoRA is measured on a CPU, one per group. On a GPU it is measured on
            all.
    """

    suite: str = "mini-vtab"
    kind: Kind = "images"
    backbone: str | None = None
    accept_licence: str | None = None
    image_size: int | None = 56
    n_configs: int = 16
    n_family_configs: int = 32
    n_lora_configs: int = 6
    n_seeds: int = 3
    epochs: int = 12
    family_epochs: int = 30
    device: str = "cpu"
    lora_tasks: tuple[str, ...] = ("count", "mnist", "glyph-font")

    @property
    def study(self) -> str:
        """Name of the study that tunes LAST."""
        return TEXT_STUDY if self.kind == "texts" else STUDY


@dataclass(frozen=True)
class AccuracyRow:
    """One method on one task.

    Attributes:
        task: Name of the task.
        group: Name of the group of tasks with which it is averaged.
        method: `"last"`, `"linear_probe"`, `"lora"` or one of `FAMILIES`.
        n_configurations: How many configurations were tried.
        chosen: Hyperparameters of the configuration that is best on val.
        val_top1: Top-1 on val of the chosen configuration, trained on train; the mean over replicates if there are any.
        n_seeds: How many trainings on train and val together were tested.
        test_top1: Their mean top-1 on test.
        test_top1_std: Their standard deviation; None for a single training.
        test_standard_error: Standard error over the test images, `sqrt(p (1 − p) / n)`.
        n_test_images: `n`.
        trainable_parameters: Trained parameters of one side-network, of the probe, or of adapters and head.
        tune_seconds: Seconds from the images of train and val to the choice, including the feature pass.
        peak_memory_bytes: Peak memory meanwhile, above what the process held before; includes mapped features.
        metric: The metric that ranked configurations on val, and that val and test have here.
        test_mean_class_accuracy: On test, the mean over classes of the share that is answered correctly: for classes of
            unequal size. None in files of earlier versions.
    """

    task: str
    group: str
    method: str
    n_configurations: int
    chosen: Mapping[str, Any]
    val_top1: float
    n_seeds: int
    test_top1: float
    test_top1_std: float | None
    test_standard_error: float
    n_test_images: int
    trainable_parameters: int
    tune_seconds: float
    peak_memory_bytes: int
    metric: str = CLASSES.score
    test_mean_class_accuracy: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "AccuracyRow":
        """Read a row from JSON.

        Raises:
            TypeError: An entry is missing, unknown, or of another type.
            ValueError: A number is out of range.
        """
        row = cls(**values)
        for field in fields(cls):
            value, kind = getattr(row, field.name), IN_JSON.get(field.type, field.type)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{field.name} is {str(value)[:40]!r}")
            if isinstance(value, int | float) and not 0 <= value < LARGEST_WHOLE:
                raise ValueError(f"{field.name} is {str(value)[:40]}")
        if row.method not in (LAST, PROBE, LORA, *FAMILIES) or row.tune_seconds == 0:
            raise ValueError(f"method {row.method[:40]!r} took {row.tune_seconds} s")
        return row


@dataclass(frozen=True)
class Comparison:
    """A method compared with another one, on the tasks where both were measured.

    Attributes:
        tasks: The names of these tasks.
        group_points: Test top-1 of the method minus that of the other, in points, as the mean over each group's tasks.
        points: The mean over groups.
        tune_seconds_ratio: Seconds to tune the other method, divided by those of the method.
    """

    tasks: tuple[str, ...]
    group_points: Mapping[str, float]
    points: float
    tune_seconds_ratio: float


@dataclass(frozen=True)
class AccuracyBenchmark:
    """The results of the accuracy benchmark.

    Attributes:
        rows: One row per task and method, in the order in which they were measured.
        missing: Tasks or methods that could not be measured here, each with the reason.
    """

    rows: Sequence[AccuracyRow]
    missing: Mapping[str, str]

    @property
    def methods(self) -> list[str]:
        """All methods that were measured."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def of_method(self, method: str) -> dict[str, AccuracyRow]:
        """A method's rows by task.

        Those of `BEST` are the rows of the family that is best on val, on tasks where all families were measured. They
        have the seconds that tuning all of these took.
        """
        if method != BEST:
            return {row.task: row for row in self.rows if row.method == method}
        families = (LAST, *FAMILIES)
        of_task = {row.task: [r for r in self.rows if r.task == row.task and r.method in families] for row in self.rows}
        return {
            task: replace(max(rows, key=lambda row: row.val_top1), tune_seconds=sum(row.tune_seconds for row in rows))
            for task, rows in of_task.items()
            if {row.method for row in rows} == {m for m in self.methods if m in families}
        }

    def against(self, method: str, other: str) -> Comparison | None:
        """Compare a method with another one; None if no task has both."""
        ours, theirs = self.of_method(method), self.of_method(other)
        tasks = [task for task in ours if task in theirs]
        if not tasks:
            return None
        of_group: dict[str, list[float]] = {}
        for task in tasks:
            of_group.setdefault(ours[task].group, []).append(100 * (ours[task].test_top1 - theirs[task].test_top1))
        group_points = {group: sum(points) / len(points) for group, points in of_group.items()}
        seconds = [sum(rows[task].tune_seconds for task in tasks) for rows in (theirs, ours)]
        mean = sum(group_points.values()) / len(group_points)
        return Comparison(tuple(tasks), group_points, mean, seconds[0] / seconds[1])

    def comparisons(self) -> list[tuple[str, str, Comparison]]:
        """Every family, and the best of them, against probe, LAST and LoRA, where both were measured."""
        ours = [method for method in (LAST, *FAMILIES) if method in self.methods]
        ours += [BEST] if len(ours) > 1 else []
        pairs = [(mine, other) for mine in ours for other in (PROBE, LAST, LORA) if mine != other]
        found = [(mine, other, self.against(mine, other)) for mine, other in pairs]
        return [(mine, other, comparison) for mine, other, comparison in found if comparison is not None]
