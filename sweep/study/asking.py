"""Asks a study's `suggest` for the configuration of a trial, and checks trials whose parameters are given."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sweep.errors import UsageError
from sweep.machine.user_code import line_of
from sweep.study.class_weights import of_lane
from sweep.study.fixed import asked_trial, of_fixed
from sweep.study.lane_config import LaneConfig
from sweep.study.own_config import with_fields_in_extra
from sweep.study.parameter_cells import range_text
from sweep.study.shape import shape_values, study_of_lane
from sweep.study.stored_values import same_value
from sweep.study.structure import GRANULAR, check_parts, default_parts
from sweep.tasks.own_losses import own_loss

if TYPE_CHECKING:
    import optuna

    from sweep.study.declaration import Study


def lane_config(study: "Study", trial: "optuna.Trial | optuna.trial.FixedTrial") -> LaneConfig:
    """Ask `suggest` for one configuration, and fill in what the study declares for all lanes.

    Args:
        study: The study.
        trial: The trial that `suggest` asks for values.

    Raises:
        UsageError: `suggest` raised an error or did not return a `LaneConfig`, its rank is above `max_rank`, its loss
            does not fit the task, or its shape fields contradict each other.
    """
    try:
        config = study.suggest(cast("optuna.Trial", asked_trial(study, trial)))
        if isinstance(config, LaneConfig):
            config = _with_declarations(study, with_fields_in_extra(config))
    except UsageError as error:
        raise UsageError(f"{error} ({line_of(study.suggest, error)})") from error
    except Exception as error:
        raise UsageError(
            f"the study's suggest failed: {type(error).__name__}: {error} ({line_of(study.suggest, error)})"
            f"{of_fixed(study)}"
        ) from error
    if not isinstance(config, LaneConfig):
        raise UsageError(f"the study's suggest must return a sweep.LaneConfig, not {config!r}")
    if study.max_rank is not None and config.rank > study.max_rank:
        raise UsageError(
            f"the study's suggest asked for rank {config.rank}, above its max_rank {study.max_rank}; "
            f"raise max_rank or lower the rank"
        )
    lane = study_of_lane(study, config)  # raises if the lane's shape fields are wrong
    if lane.side_network == GRANULAR:
        config = replace(config, parts=lane.parts or default_parts(config.rank))
        check_parts(cast("int", config.parts), config.rank)
    own: dict[str, Any] = {name: None for name, value in shape_values(config).items() if value == getattr(study, name)}
    return replace(config, **own) if own else config


def _with_declarations(study: "Study", config: LaneConfig) -> LaneConfig:
    """The configuration with what the study declares for all lanes: what is fixed, class weights, and losses."""
    if study.fixed:
        of_study: dict[str, Any] = dict.fromkeys(study.fixed)
        config = replace(config, **of_study)
    if config.class_weights is None and study.class_weights is not None:
        config = replace(config, class_weights=of_lane(study.class_weights))
    if config.loss is not None and config.loss in study.losses:
        config = replace(config, loss=own_loss(config.loss, study.losses[config.loss]))
    return config if study.task is None else config.on(study.kind)


def check_baseline(study: "Study") -> None:
    """Ask `suggest` for trial 0, before any work begins.

    Raises:
        UsageError: See `check_fixed`.
    """
    check_fixed(study, study.baseline, "the study's baseline", partial=False)


def check_enqueued(study: "Study", enqueued: Sequence[Mapping[str, Any]]) -> None:
    """Ask `suggest` for the enqueued trials. With the grid sampler, they must have all parameters.

    Raises:
        UsageError: See `check_fixed`.
    """
    for number, params in enumerate(enqueued, start=1):
        check_fixed(study, params, f"enqueued trial {number}", partial=study.sampler != "grid")


def check_fixed(study: "Study", params: Mapping[str, Any], whose: str, *, partial: bool) -> None:
    """Ask `suggest` for a trial whose parameters are given.

    Args:
        study: The study.
        params: Values by parameter.
        whose: Name of the trial, for the error message.
        partial: Whether parameters may be missing.

    Raises:
        UsageError: A parameter that `suggest` asks for is missing, `suggest` does not ask for a given parameter, a
            value is outside its range, or `suggest` itself fails.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rehearsal = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    rehearsal.enqueue_trial(dict(params))
    trial = rehearsal.ask()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns about values out of range; below, these are errors
        try:
            study.lane_config(trial)
        except UsageError as error:
            raise UsageError(f"with the values of {whose}, {error}") from error
    if not partial and (missing := sorted(set(trial.params) - set(params))):
        raise UsageError(f"{whose} lacks {', '.join(missing)}, which its suggest asks for{of_fixed(study)}")
    for name, value in params.items():
        if name not in trial.params:
            asked = ", ".join(trial.params) or "nothing"
            raise UsageError(f"{whose} names {name!r}; its suggest asks for {asked}")
        distribution = trial.distributions[name]
        inside = same_value(trial.params[name], value)
        if not (inside and distribution._contains(distribution.to_internal_repr(value))):
            raise UsageError(
                f"{whose} has {name} = {value!r}, but suggest asks for {range_text(distribution)}"
                f"{of_fixed(study) if name in study.fixed else ''}"
            )
