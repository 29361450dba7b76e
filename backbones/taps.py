"""The choice of the blocks after which a backbone's stages are read."""

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.errors import SweepError, UsageError


@dataclass(frozen=True)
class Taps:
    """A request for stages, made before it is known how many blocks a backbone has.

    Attributes:
        group_size: `g`, the number of blocks between two stages.
        stages: Instead of `group_size`: the number of stages to spread evenly after `z_0`, or the numbers of the blocks
            after which to read them, counted from 1 and ascending. None to use `group_size`.
    """

    group_size: int = 1
    stages: int | tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.stages is None:
            return f"a stage every {self.group_size} blocks"
        if isinstance(self.stages, int):
            return f"{self.stages} stages, evenly spread"
        return f"stages after blocks {', '.join(map(str, self.stages))}"

    def of_blocks(self, name: str, n_blocks: int) -> tuple[int, ...]:
        """Return how many blocks run before each stage, for a backbone with equal blocks: ``(0, g, 2g, …, n)``.

        Raises:
            UsageError: `group_size` does not divide the number of blocks, or `stages` names blocks that do not exist.
        """
        if self.stages is not None:
            return self._chosen(name, n_blocks)
        divisors = [g for g in range(1, n_blocks + 1) if n_blocks % g == 0]
        if self.group_size not in divisors:
            raise UsageError(
                f"group size {self.group_size} does not divide the {n_blocks} blocks of {name!r}; "
                f"give one of {', '.join(map(str, divisors))}"
            )
        return tuple(range(0, n_blocks + 1, self.group_size))

    def of_levels(self, name: str, depths: Sequence[int]) -> tuple[int, ...]:
        """Return how many blocks run before each stage, for a backbone with levels of `depths` blocks.

        A stage ends after every g-th block of a level, and at the end of each level.

        Raises:
            UsageError: `stages` names blocks that do not exist.
        """
        if self.stages is not None:
            return self._chosen(name, sum(depths))
        indices, before = [0], 0
        for depth in depths:
            indices += [*range(before + self.group_size, before + depth, self.group_size), before + depth]
            before += depth
        return tuple(indices)

    def _chosen(self, name: str, n_blocks: int) -> tuple[int, ...]:
        wanted = self.stages
        if isinstance(wanted, int):
            if not 1 <= wanted <= n_blocks:
                raise UsageError(
                    f"--stages {wanted} must be between 1 and {n_blocks}, the number of blocks of {name!r}"
                )
            return (0, *(round(n_blocks * i / wanted) for i in range(1, wanted + 1)))
        assert wanted is not None
        if not wanted or list(wanted) != sorted(set(wanted)) or not 1 <= wanted[0] <= wanted[-1] <= n_blocks:
            listed = ",".join(map(str, wanted))
            raise UsageError(
                f"--stages {listed} must name blocks of {name!r} in ascending order, each once, from 1 to {n_blocks}"
            )
        return (0, *wanted)


def recorded_stages(value: object) -> int | tuple[int, ...] | None:
    """Read `Taps.stages` from a JSON file.

    Raises:
        SweepError: The value is not one that `Taps.stages` can have.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, list) and all(isinstance(block, int) for block in value):
        return tuple(value)
    raise SweepError(f"the recorded stages {str(value)[:40]!r} are neither a number of stages nor a list of blocks")
