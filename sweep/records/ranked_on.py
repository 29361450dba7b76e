"""Which images a run ranks its trials on: those of val, or with cross-validation those of train and val."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweep.study.folds import recorded_folds, standard_error
from sweep.tasks.inputs import Kind, kind_of
from sweep.tasks.kinds import TaskKind


@dataclass(frozen=True)
class RankedOn:
    """The images or texts that the trials of a run are ranked on.

    Attributes:
        n_images: Their number.
        items: Whether they are images or texts.
        folds: Number of folds; 0 without cross-validation.
        repeats: How often they were divided into folds.
    """

    n_images: int
    items: Kind
    folds: int
    repeats: int

    @classmethod
    def recorded(cls, config: Mapping[str, Any]) -> "RankedOn":
        """Read from a run's record.

        Raises:
            SweepError: The record is damaged.
        """
        folds, repeats = recorded_folds(config)
        splits = ("train", "val") if folds else ("val",)
        n_images = sum(config["splits"][split]["images"] for split in splits)
        return cls(n_images, kind_of(config), folds, repeats)

    @property
    def words(self) -> str:
        """The images or texts and their number, such as `200 val images`."""
        return f"{self.n_images} {self.split} {self.items}"

    @property
    def split(self) -> str:
        """The name of the split or splits."""
        return "train and val" if self.folds else "val"

    @property
    def how(self) -> str:
        """How they were divided, as a sentence; empty without cross-validation."""
        if not self.folds:
            return ""
        again = f", divided anew {self.repeats} times" if self.repeats > 1 else ""
        return (
            f"{self.folds} folds of train and val{again}: every number on val is the mean over folds, each measured on "
            f"{self.items} that its lane did not learn from."
        )

    def error_of(self, std: float) -> float:
        """The standard error of a trial's score over folds, from its standard deviation over lanes."""
        return standard_error(std, self.folds)

    def metrics_of(self, row: Mapping[Any, Any], kind: TaskKind) -> dict[str, float]:
        """Metrics of a row of the trials table; with cross-validation also the standard error over folds."""
        shown = {name: row[f"val_{name}"] for name in kind.shown}
        return shown | ({f"{kind.score}_error": self.error_of(row[kind.std_column])} if self.folds else {})
