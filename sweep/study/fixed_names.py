"""Parameters that choose among names of the study's own, where the declaration of the parameter's name is fixed.

An example is `STAGES[trial.suggest_categorical("stages", ["first", "even"])]` with the option `--stages 4`. Like other
parameters, this one has the value of the option, so tables show what was trained and no trial is spent on it. But
`suggest` needs a name. It always gets the same one: a name that comes to the fixed value, if there is one, else that of
the baseline.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from sweep.study.asked_trial import Naming
from sweep.study.class_weights import of_lane
from sweep.study.lane_config import LaneConfig
from sweep.study.rehearsal import asked
from sweep.study.stored_values import same_value, stored_parameter
from sweep.study.wrapped_suggest import WrappedSuggest

if TYPE_CHECKING:
    from sweep.study.declaration import Study

MOST_TRIED = 64
"""Number of names of a parameter that are tried. A parameter may be a number from a large range."""


def naming_fixed(study: "Study", suggest: Callable[..., LaneConfig], baseline: Mapping[str, Any]) -> WrappedSuggest:
    """A `suggest`, whose parameters have the fixed values also where they choose among names.

    Args:
        study: The study, with what it fixes.
        suggest: The study's `suggest`, or that of one of its other tasks.
        baseline: The baseline that belongs to `suggest`.
    """
    names: dict[str, Any] = {}
    while new := _chosen_among(study, suggest, baseline, names):
        for name, choices in new.items():
            names[name] = _name(study, suggest, baseline, names, name, choices)
    return _wrapped(suggest, partial(_known, names))


def _wrapped(suggest: Callable[..., LaneConfig], naming: Naming) -> WrappedSuggest:
    return WrappedSuggest(suggest, methodcaller("with_names", naming))


def _known(names: Mapping[str, Any], name: str, choices: Sequence[Any]) -> Any:
    """The name that was chosen for a parameter; the first one if the parameter was not met before."""
    return names.get(name, choices[0])


def _chosen_among(
    study: "Study", suggest: Callable[..., LaneConfig], baseline: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, Sequence[Any]]:
    """The choices of the parameters that choose among names and for which there is no name yet."""
    found: dict[str, Sequence[Any]] = {}

    def naming(name: str, choices: Sequence[Any]) -> Any:
        if name not in names:
            found.setdefault(name, choices)
        return _known(names, name, choices)

    _config(study, suggest, baseline, naming)
    return found


def _name(
    study: "Study",
    suggest: Callable[..., LaneConfig],
    baseline: Mapping[str, Any],
    names: Mapping[str, Any],
    name: str,
    choices: Sequence[Any],
) -> Any:
    """The name that `suggest` is to get for a parameter."""
    tried = list(islice(choices, MOST_TRIED))
    tried.sort(key=lambda choice: not same_value(stored_parameter(name, choice), baseline.get(name)))
    value = getattr(study, name)
    wanted = (None, of_lane(value) if name == "class_weights" else value)  # None means the study's own value
    for choice in tried:
        config = _config(study, suggest, baseline, partial(_known, {**names, name: choice}))
        if config is not None and getattr(config, name) in wanted:
            return choice
    return tried[0]


def _config(
    study: "Study", suggest: Callable[..., LaneConfig], baseline: Mapping[str, Any], naming: Naming
) -> LaneConfig | None:
    """What `suggest` makes of the baseline; None if it fails, which is explained when the baseline is checked."""
    try:
        config = asked(study, _wrapped(suggest, naming), baseline).config
    except Exception:
        return None
    return config if isinstance(config, LaneConfig) else None
