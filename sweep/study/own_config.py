"""A study's own dataclass of hyperparameters: a subclass of `LaneConfig` with further fields."""

from dataclasses import fields

from sweep.errors import UsageError
from sweep.study.lane_config import Extra, LaneConfig
from sweep.study.stored_values import plain


def with_fields_in_extra(config: LaneConfig) -> LaneConfig:
    """The configuration as a plain `LaneConfig`, which has the further fields of a subclass in `extra`.

    A run records a lane's configuration as values by name and never names a class of a study file. `LaneConfig` gives
    the values in `extra` as attributes too, so a side-network still reads `config.scale`.

    Args:
        config: What `suggest` returned.

    Raises:
        UsageError: A further field has a value that cannot be recorded, the name of a method of `LaneConfig`, or a name
            that is in `extra`, too.
    """
    if type(config) is LaneConfig:
        return config
    whose, known = type(config).__name__, {declared.name for declared in fields(LaneConfig)}
    values = {declared.name: getattr(config, declared.name) for declared in fields(config)}
    own = {name: plain(value) for name, value in values.items() if name not in known}
    for name, value in own.items():
        if hasattr(LaneConfig, name):
            raise UsageError(f"{whose}.{name} has the name of a method of LaneConfig; give the field another name")
        if not Extra.takes({name: value}):
            raise UsageError(f"{whose}.{name} must be a finite number, a text or a boolean; suggest gave {value!r}")
        if name in config.extra:
            raise UsageError(f"{name!r} is a field of {whose}, and also in its extra; give it once")
    shared = {name: value for name, value in values.items() if name in known}
    return LaneConfig(**{**shared, "extra": {**config.extra, **own}})
