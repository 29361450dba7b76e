"""Check a run's record before it is used: the entries that a run writes, with their types."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any

from sweep.errors import SweepError
from sweep.machine.checked_files import RESTORE, require_entries
from sweep.records.folder import RunFolder
from sweep.records.tested import was_tested
from sweep.tasks.kinds import TaskKind

NUMBER = int | float
METHODS = ("winner", "linear_probe")

SUMMARY: dict[str, type | UnionType] = {
    "winner.trial": int,
    "winner.trainable_parameters": int,
    "winner.test": dict,
    "linear_probe.test": dict,
    "linear_probe.n_configurations": int,
    "linear_probe.stage": int,
    "linear_probe.head_stages": int | None,
    "linear_probe.pool": str | None,
    "n_val_images": int,
    "n_test_images": int,
    "configs_per_hour": NUMBER,
    "ended": str,
    **{f"n_trials.{state}": int for state in ("complete", "pruned", "fail")},
    "plan.search_wall_seconds": NUMBER,
    "plan.lane_epochs": NUMBER,
    **{f"wall_seconds.{part}": NUMBER for part in ("features", "search", "training", "linear_probe", "total")},
}
CONFIG: dict[str, type | UnionType] = {
    **dict.fromkeys(("study", "study_file", "data", "data_notice", "device", "precision"), str),
    **dict.fromkeys(("backbone", "backbone_fingerprint"), str),
    **dict.fromkeys(("epochs", "batch_size", "seed", "seeds", "group_size", "modules_per_block"), int),
    "max_rank": int | None,
    **dict.fromkeys(("command", "classes"), list),
    **dict.fromkeys(("transform", "versions", "splits"), dict),
    **{f"splits.{split}.images": int for split in ("train", "val", "test")},
    **{f"splits.{split}.fingerprint": str for split in ("train", "val", "test")},
}


def require_summary(folder: RunFolder, summary: Mapping[str, Any], kind: TaskKind, metrics: Iterable[str]) -> None:
    """Check the summary of a run that has ended.

    Args:
        folder: The run's folder, for the message.
        summary: The summary as it was read.
        kind: The kind of task.
        metrics: Metrics of the winner and the probe that must be there, beside the score that ranks trials.

    Raises:
        SweepError: An entry is missing or has another type.
    """
    wanted = dict.fromkeys([kind.score, *metrics])
    splits = ("val", "test") if was_tested(summary) else ("val",)
    scores = {f"{who}.{split}.{name}": NUMBER for who in METHODS for split in splits for name in wanted}
    require_entries(folder.summary_path, summary, SUMMARY | scores)


def require_config(folder: RunFolder, config: Mapping[str, Any]) -> None:
    """Check the configuration that a run recorded.

    Raises:
        SweepError: An entry is missing or has another type.
    """
    require_entries(folder.config_path, config, CONFIG)
    for name in ("command", "classes"):
        if not all(isinstance(text, str) for text in config[name]):
            raise SweepError(f"{folder.config_path} is damaged: its {name} holds more than text{RESTORE}")
