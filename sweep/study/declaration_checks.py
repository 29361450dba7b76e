"""Checks of a study's declarations: types, ranges, and names that exist."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from sweep.errors import UsageError
from sweep.study.augmentation import check_declared
from sweep.study.folds import check_folds
from sweep.study.halving import Halving
from sweep.study.lane_config import FIXABLE, LOSSES
from sweep.study.objectives import OTHER_OBJECTIVES
from sweep.study.space import Space
from sweep.study.stored_values import plain, stored_parameter
from sweep.study.structure import HEAD_CELLS, check_structure
from sweep.tasks.kinds import TASK_KINDS

if TYPE_CHECKING:
    from sweep.study.declaration import Study

MOST_WHOLE = 2**63 - 1
"""The largest whole number that PyTorch takes as a seed and that tables can hold."""

POSITIVE = ("group_size", "modules_per_block", "head_stages", "trials", "epochs", "batch_size", "seeds")


def check_declarations(study: "Study") -> None:
    """Check all of a study's declarations, except those that `stored_baseline` and `stored_grid` check.

    Raises:
        UsageError: A declaration has the wrong type, is out of its range, or names something that does not exist.
    """
    if not callable(study.suggest):
        raise UsageError(f"Study.suggest must be a function of a trial, not {study.suggest!r}")
    if not isinstance(study.backbone, str):
        raise UsageError(f"Study.backbone must be a str, not {study.backbone!r}")
    _check_data(study)
    for name in POSITIVE:
        check_whole(name, getattr(study, name), least=1)
    check_whole("seed", study.seed, least=0)
    check_folds(study)
    for name in ("image_size", "max_tokens", "max_rank"):
        if getattr(study, name) is not None:
            check_whole(name, getattr(study, name), least=1)
    if not all(isinstance(bucket, int) and bucket > 0 for bucket in study.rank_buckets):
        raise UsageError(f"Study.rank_buckets must be positive whole numbers, not {study.rank_buckets!r}")
    if study.head_cells not in HEAD_CELLS or isinstance(study.head_cells, bool):
        raise UsageError(f"head_cells must be 1, 2 or 4, not {study.head_cells!r} (--head-cells, or the study file)")
    if not isinstance(study.stages, int | None):
        _check_stages(study.stages)
    if study.pool not in (None, "mean", "class", "last"):
        raise UsageError(f"pool must be 'mean', 'class' or 'last', not {study.pool!r}")
    if study.precision not in ("fp32", "bf16"):
        raise UsageError(f"precision must be 'fp32' or 'bf16', not {study.precision!r}")
    if study.halving is not None and not isinstance(study.halving, Halving):
        raise UsageError(f"Study.halving must be a sweep.Halving or None, not {study.halving!r}")
    if isinstance(study.enqueue, Mapping) or not all(isinstance(params, Mapping) for params in study.enqueue):
        raise UsageError(f"Study.enqueue must be a list of mappings of parameters, not {study.enqueue!r}")
    _check_fixed(study)
    check_structure(study.side_network, study.attention, study.mlp, study.read_out, study.parts)
    check_declared(study.augment, study.views, study.cache)
    _check_tasks(study)
    _check_ending(study)
    _check_metrics(study)
    _check_losses(study)
    _check_objectives(study)


def check_whole(name: str, value: object, least: int) -> None:
    """Check that a declaration is a whole number of at least `least`, and not above `MOST_WHOLE`.

    Raises:
        UsageError: It is not.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= cast(int, value) <= MOST_WHOLE:
        most = "" if not whole or cast(int, value) < least else " and below 2^63"
        option = name.replace("_", "-")
        raise UsageError(
            f"{name} must be a whole number of at least {least}{most}, not {value!r} (--{option}, or the study file)"
        )


def _check_data(study: "Study") -> None:
    if not isinstance(study.data, str | Mapping):
        raise UsageError(f"Study.data must be a str, or map splits to data sets, not {study.data!r}")
    for name in ("image_root", "path_column", "label_column"):
        if not isinstance(getattr(study, name), str | None):
            raise UsageError(f"Study.{name} must be a str, not {getattr(study, name)!r}")
    if study.resize not in (None, "centre", "crop", "squash"):
        raise UsageError(
            f"resize must be 'centre', 'crop' or 'squash', not {study.resize!r} (--resize, or the study file)"
        )


def _check_ending(study: "Study") -> None:
    for name in ("test", "retrain"):
        if not isinstance(getattr(study, name), bool):
            raise UsageError(f"Study.{name} must be True or False, not {getattr(study, name)!r}")


def _check_fixed(study: "Study") -> None:
    if isinstance(study.fixed, str) or not all(name in FIXABLE for name in study.fixed):
        raise UsageError(f"Study.fixed must be a list of names out of {', '.join(FIXABLE)}, not {study.fixed!r}")


def _check_stages(stages: object) -> None:
    if not isinstance(stages, list | tuple) or not all(isinstance(block, int) for block in stages):
        raise UsageError(f"Study.stages must be a number, or numbers of blocks, not {stages!r}")


def _check_tasks(study: "Study") -> None:
    if not isinstance(study.accept_licence, str | None):
        raise UsageError(f"Study.accept_licence must be a str, not {study.accept_licence!r}")
    known = ", ".join(TASK_KINDS)
    if study.task is not None and (not isinstance(study.task, str) or study.task not in TASK_KINDS):
        raise UsageError(f"task must be one of {known}, not {study.task!r} (--task, or the study file)")
    for task, space in study.other_tasks.items():
        if task not in TASK_KINDS or not isinstance(space, Space):
            raise UsageError(
                f"Study.other_tasks has {task!r}: {space!r}; give a sweep.Space for each of {known} that is to "
                f"have its own"
            )


def _check_metrics(study: "Study") -> None:
    for name, metric in study.metrics.items():
        if not callable(metric) or not str(name).isidentifier() or name in study.kind.metrics:
            raise UsageError(
                f"Study.metrics has {name!r}: {metric!r}; give a function of logits and labels under a new name"
            )


def _check_losses(study: "Study") -> None:
    if not isinstance(study.losses, Mapping):
        raise UsageError(f"Study.losses must map names to functions, not be {study.losses!r}")
    for name, loss in study.losses.items():
        if not callable(loss) or not str(name).isidentifier() or name in LOSSES:
            raise UsageError(
                f"Study.losses has {name!r}: {loss!r}; give a function of outputs and labels under a new name (sweep "
                f"has {', '.join(LOSSES)})"
            )


def _check_objectives(study: "Study") -> None:
    if study.objectives is None:
        return
    kinds = TASK_KINDS.values() if study.task is None else [study.kind]
    measured = dict.fromkeys(name for kind in kinds for name in kind.metrics)
    known = [*(f"val_{name}" for name in (*measured, *study.metrics)), *OTHER_OBJECTIVES]
    if not study.objectives:
        raise UsageError(f"Study.objectives is empty; leave it out to get {dict(study.ranking.directions)}")
    for name, direction in study.objectives.items():
        if name not in known:
            whose = "" if study.task is None else f", but the data make a task of the kind {study.task}"
            raise UsageError(f"Study.objectives has {name!r}{whose}; give one of {', '.join(known)}")
        if direction not in ("maximize", "minimize"):
            raise UsageError(f"Study.objectives[{name!r}] must be 'maximize' or 'minimize', not {direction!r}")


def stored_grid(grid: object) -> dict[str, list[Any]]:
    """The values of a grid as Optuna's storage holds them.

    Raises:
        UsageError: It is not a mapping from names of parameters to lists of values.
    """
    if not isinstance(grid, Mapping):
        raise UsageError(f"Study.grid must map names of parameters to lists of values, not be {grid!r}")
    lists = {str(name): plain(values) for name, values in grid.items()}
    for name, values in lists.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise UsageError(f"Study.grid has {name!r}: {values!r}; give a list of at least one value")
    return {name: [stored_parameter(name, value) for value in values] for name, values in lists.items()}
