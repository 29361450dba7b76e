"""What the accuracy suite measures, and how its methods compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sweep.machine.checked_files import LARGEST_WHOLE

STUDY = "mini_vtab"
"""By which LAST is tuned."""

IN_JSON: Mapping[Any, Any] = {float: int | float, float | None: int | float | None, Mapping[str, Any]: dict}
"""What JSON has of an entry of a row, where that is not the entry's own type."""

LAST, PROBE, LORA = "last", "linear_probe", "lora"


@dataclass(frozen=True)
class AccuracySizes:
    """How much is tried on what.

    Attributes:
        suite: A packaged suite, or a folder of VTAB-1K tasks.
        image_size: Side of the backbone's input in pixels.
        n_configs: Configurations of LAST, in one stack.
        n_seeds: Replicates of each, and trainings of the winner before its test.
        epochs: Of LAST and of LoRA; the probe gets four times as many.
        device: As PyTorch names it.
        lora_tasks: Where LoRA is measured on a CPU, one a group; on a GPU it is measured on all tasks.
    """

    suite: str = "mini-vtab"
    image_size: int = 56
    n_configs: int = 16
    n_seeds: int = 3
    epochs: int = 12
    device: str = "cpu"
    lora_tasks: tuple[str, ...] = ("count", "mnist", "glyph-font")


@dataclass(frozen=True)
class AccuracyRow:
    """One method on one task.

    Attributes:
        task: Its name.
        group: What it is averaged with.
        method: `"last"`, `"linear_probe"` or `"lora"`.
        n_configurations: That were tried.
        chosen: Hyperparameters of the best on val.
        val_top1: Of the chosen one, trained on train; mean over replicates where there are any.
        n_seeds: Trainings on train and val together that were tested.
        test_top1: Their mean on test.
        test_top1_std: Their standard deviation; None for one.
        test_standard_error: What the number of test images leaves uncertain, `sqrt(p (1 − p) / n)`.
        n_test_images: `n`.
        trainable_parameters: Of one side-network, of the probe, or of adapters and head.
        tune_seconds: From images of train and val to the choice, the feature pass included.
        peak_memory_bytes: Of that, above what the process held before; mapped features are part of it.
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

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "AccuracyRow":
        """From what JSON holds.

        Raises:
            TypeError: An entry is missing, or one too many, or of another type.
            ValueError: A number is out of range.
        """
        row = cls(**values)
        for field in fields(cls):
            value, kind = getattr(row, field.name), IN_JSON.get(field.type, field.type)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{field.name} is {str(value)[:40]!r}")
            if isinstance(value, int | float) and not 0 <= value < LARGEST_WHOLE:
                raise ValueError(f"{field.name} is {str(value)[:40]}")
        if row.method not in (LAST, PROBE, LORA) or row.tune_seconds == 0:
            raise ValueError(f"method {row.method[:40]!r} took {row.tune_seconds} s")
        return row


@dataclass(frozen=True)
class Comparison:
    """LAST against another method, on the tasks where both were measured.

    Attributes:
        tasks: Their names.
        group_points: LAST's test top-1 over the other's, in points, mean over the tasks of every group.
        points: Mean over groups.
        tune_seconds_ratio: The other's seconds to tune over LAST's.
    """

    tasks: tuple[str, ...]
    group_points: Mapping[str, float]
    points: float
    tune_seconds_ratio: float


@dataclass(frozen=True)
class AccuracyBenchmark:
    """What came of it.

    Attributes:
        rows: One a task and method, in the order in which they were measured.
        missing: Tasks, and LoRA, that could not be measured here: why, by name.
    """

    rows: Sequence[AccuracyRow]
    missing: Mapping[str, str]

    def against(self, method: str) -> Comparison | None:
        """Compare LAST with another method; None where no task has both."""
        ours, theirs = ({row.task: row for row in self.rows if row.method == name} for name in (LAST, method))
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
