"""Declarations that hold for every trial, such as those that options of `sweep run` replace.

A study's `suggest` may choose what a study also declares: the augmentation, or the side-network. If such a declaration
is fixed, `suggest` no longer chooses it:

- A parameter that `suggest` asks for by the declaration's name has one value, the declared one; see `AskedTrial`. So
  `suggest` makes the rest of the configuration to match, and no sampler spends trials on it. If the parameter chooses
  among names, `suggest` gets one of them; see `sweep.study.fixed_names`.
- Whatever `suggest` returns, the study's declaration replaces it; see `sweep.study.asking.lane_config`.

The baseline and the trials to begin with are changed so that they agree. What is fixed may make `suggest` ask for
parameters that they lack. For the baseline they are drawn at random from the study's seed; for other trials, the
sampler chooses them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.study.asked_trial import AskedTrial
from sweep.study.augmentation import NONE
from sweep.study.lane_config import FIXABLE
from sweep.study.stored_values import stored_parameters

if TYPE_CHECKING:
    import optuna

    from sweep.study.declaration import Study


def fixed_values(study: "Study") -> dict[str, Any]:
    """The values of the declarations that are fixed, by name."""
    return {name: getattr(study, name) for name in study.fixed}


def asked_trial(study: "Study", trial: "optuna.Trial | optuna.trial.FixedTrial") -> AskedTrial:
    """A trial for the `suggest` of a study, in which what the study fixes has one value."""
    return AskedTrial(trial, fixed_values(study), partial(_takes, study))


def _takes(study: "Study", name: str, value: Any) -> bool:
    try:
        study.override(**{name: value})
    except UsageError:
        return False
    return True


def option_text(name: str, value: Any) -> str:
    """A declaration as an option of the command line, such as `--read-out pooled` or `--no-mlp`."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def of_fixed(study: "Study") -> str:
    """What is fixed, to be added to the message of an error that it may have caused; empty if nothing is."""
    values = fixed_values(study)
    if "stages" in values and study.stages is None:
        values["group_size"] = study.group_size
    options = " ".join(option_text(name, value) for name, value in values.items() if value is not None)
    if not options:
        return ""
    return f". For every trial, this run has {options}; leave out what does not go with the study"


def with_options(study: "Study", options: Mapping[str, Any]) -> "Study":
    """The study with the declarations that a user replaces for one run. They hold for every trial.

    Args:
        study: The study as its file declares it.
        options: New values by name of the declaration; None keeps the study's own.

    Raises:
        UsageError: A value has the wrong type, is out of its range, or contradicts another declaration.
    """
    given = {name for name, value in options.items() if value is not None}
    if "group_size" in given:
        given.add("stages")
    if options.get("augment") == NONE or options.get("cache") == "off":
        given.add("views")
    return with_fixed(study.override(**options), [*study.fixed, *given])


def with_fixed(study: "Study", names: Iterable[str], *, among_names: bool = True) -> "Study":
    """The study with those declarations fixed that a lane may have for itself.

    Args:
        study: The study, with the values that are to be fixed.
        names: Names of declarations; those that no lane has for itself are left out.
        among_names: Whether parameters that choose among names have the fixed values too. Up to version 0.11.2 they
            stayed free.

    Raises:
        UsageError: See `Study`.
    """
    from sweep.study.fixed_names import naming_fixed

    wanted = set(names)
    study = replace(study, fixed=tuple(name for name in FIXABLE if name in wanted))
    if study.fixed and among_names:
        study = replace(
            study,
            suggest=naming_fixed(study, study.suggest, study.baseline),
            other_tasks={
                task: replace(space, suggest=naming_fixed(study, space.suggest, space.baseline))
                for task, space in study.other_tasks.items()
            },
        )
    return agreeing(study)


def agreeing(study: "Study") -> "Study":
    """The study, whose baselines and trials to begin with agree with what it fixes. Trials that are then alike are one.

    Raises:
        UsageError: See `Study`.
    """
    if not study.fixed:
        return study
    baseline = _agreeing(study, study.suggest, study.baseline, complete=True)
    complete = study.sampler == "grid"  # it cannot choose what is missing
    enqueue = [_agreeing(study, study.suggest, params, complete=complete) for params in study.enqueue]
    return replace(
        study,
        baseline=baseline,
        enqueue=tuple(params for i, params in enumerate(enqueue) if params not in (baseline, *enqueue[:i])),
        other_tasks={
            task: replace(space, baseline=_agreeing(study, space.suggest, space.baseline, complete=True))
            for task, space in study.other_tasks.items()
        },
    )


def _agreeing(
    study: "Study", suggest: Callable[..., Any], params: Mapping[str, Any], *, complete: bool
) -> Mapping[str, Any]:
    """The parameters of a trial with the fixed values, and without those that `suggest` then no longer asks for.

    Args:
        study: The study, with what it fixes.
        suggest: The study's `suggest`, or that of one of its other tasks.
        params: Values by parameter.
        complete: Whether the parameters that `suggest` only asks for now are drawn at random.
    """
    from sweep.study.rehearsal import asked  # Optuna takes a while to import

    params = stored_parameters(params)
    try:
        now = asked(study, suggest, params, seed=study.seed % 2**32).params
    except Exception:  # an error in the user's `suggest`; it is raised and explained when the parameters are checked
        return params
    try:
        before = asked(replace(study, fixed=()), suggest, params).params
    except Exception:  # `suggest` takes only the fixed values, since the parameters have them already
        before = now
    kept = {name: now.get(name, value) for name, value in params.items() if name in now or name not in before}
    drawn = {name: value for name, value in now.items() if name not in before and name not in kept}
    return {**kept, **drawn} if complete else kept
