"""The budget of a search: a limit on its time, and a target at which it ends."""

import math
import re
from dataclasses import dataclass

from sweep.errors import UsageError
from sweep.study.stored_values import plain

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Ends a search before all trials are trained.

    Attributes:
        wall_seconds: Time limit of the search, counted from its first proposal; None for no limit.
        target: The search ends when a complete trial reaches this value of the first objective; None for no target.

    Raises:
        UsageError: The target is not a finite number.
    """

    wall_seconds: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", plain(self.target))
        if self.target is None:
            return
        if isinstance(self.target, bool) or not isinstance(self.target, int | float) or not math.isfinite(self.target):
            raise UsageError(f"--target must be a finite number, not {self.target!r}")


def parse_duration(text: str, option: str = "--time") -> float:
    """Seconds of a duration such as `90s`, `10m` or `1h30m`.

    Args:
        text: The duration.
        option: The option that it was given to.

    Raises:
        UsageError: It is not a duration, or not above zero.
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    seconds = 0.0
    if match:
        seconds = sum(float(part) * unit for part, unit in zip(match.groups(), _UNITS.values(), strict=True) if part)
    if not 0 < seconds < math.inf:
        raise UsageError(f"{option} must be a duration with its unit, such as 90s, 10m or 1h30m, not {text!r}")
    return seconds


def whole_seconds(seconds: float) -> str:
    """A time for a message, such as `12 s`."""
    return f"{seconds:.0f} s" if round(seconds) >= 1 else "less than 1 s"


def duration_text(seconds: float) -> str:
    """Seconds in the form that `parse_duration` reads."""
    whole = round(seconds)
    if abs(seconds - whole) > 1e-6 or whole == 0:
        return f"{seconds:g}s"
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)
