"""Weights of more trials than the winner: the best few of a run in one file of the run folder."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import RESTORE, read_weights_and_metadata
from sweep.records.folder import RunFolder
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig

KEPT_TRIALS = 10
"""Trials whose weights a run keeps, unless told otherwise: a few MB, whatever the number of trials."""


@dataclass(frozen=True)
class LaneWeights:
    """What one trial learned.

    Attributes:
        trial: Optuna's number.
        rank: `r` of its modules.
        spec: Structure of its side-network.
        state: The `state_dict` of a plain side-network of that rank.
        config: The trial's; a side-network of the study's own is built from it, and only then is it read from a file.
    """

    trial: int
    rank: int
    spec: SideNetworkSpec
    state: dict[str, Tensor]
    config: LaneConfig | None = None


class KeptWeights:
    """The weights a run holds on to while it goes on; who deserves to be kept is the caller's to say."""

    def __init__(self) -> None:
        self._by_trial: dict[int, LaneWeights] = {}

    def __getitem__(self, trial: int) -> LaneWeights:
        return self._by_trial[trial]

    def __iter__(self) -> Iterator[LaneWeights]:
        return iter(self._by_trial.values())

    def add(self, weights: LaneWeights) -> None:
        """Keep a trial's weights, for now."""
        self._by_trial[weights.trial] = weights

    def retain(self, trials: Iterable[int]) -> None:
        """Drop the weights of all trials but these."""
        kept = set(trials)
        self._by_trial = {trial: weights for trial, weights in self._by_trial.items() if trial in kept}

    def write(self, folder: RunFolder) -> None:
        """Write them to the run folder, replacing what stood there; nothing where nothing is kept."""
        if not self._by_trial:
            return
        tensors = {_key(w.trial, name): x for w in self._by_trial.values() for name, x in w.state.items()}
        ranks = json.dumps({str(w.trial): w.rank for w in self._by_trial.values()})
        specs = json.dumps({str(w.trial): w.spec.metadata(w.rank, w.config) for w in self._by_trial.values()})
        metadata = {"ranks": ranks, "specs": specs}
        folder.write_weights(folder.weights_path, tensors, metadata)


def weights_of(folder: RunFolder, trial: int, winner: int) -> tuple[SideNetworkSpec, LaneWeights]:
    """The weights of a trial, and the structure of its side-network.

    Args:
        folder: A run's.
        trial: Optuna's number.
        winner: The trial whose weights stand in `winner.safetensors`.

    Raises:
        UsageError: The trial's weights were not kept.
        SweepError: The file is missing or damaged.
    """
    if trial == winner:
        metadata, state = read_weights_and_metadata(folder.winner_path)
        return _checked(folder.winner_path, metadata, trial, metadata.get("rank"), state)
    kept: dict[str, Any] = {}
    if folder.weights_path.is_file():
        metadata, state = read_weights_and_metadata(folder.weights_path, prefix=_key(trial, ""))
        kept = _by_trial(folder.weights_path, metadata, "ranks")
        if str(trial) in kept:
            of_trial = _by_trial(folder.weights_path, metadata, "specs").get(str(trial), metadata)
            return _checked(folder.weights_path, of_trial, trial, kept[str(trial)], state)
    others = sorted({winner, *map(int, kept)})
    raise UsageError(
        f"the weights of trial {trial} were not kept in {folder.path}; "
        f"those of trial{'s' if len(others) > 1 else ''} {', '.join(map(str, others))} were"
    )


def _key(trial: int, name: str) -> str:
    return f"trial {trial}/{name}"


def _by_trial(path: Path, metadata: dict[str, str], entry: str) -> dict[str, Any]:
    """An entry by the number of a trial whose weights are in the file; empty where versions before 0.4 had none."""
    try:
        values = json.loads(metadata.get(entry, "{}"))
        if isinstance(values, dict) and all(name.isdecimal() and len(name) < 19 for name in values):
            return values
        raise ValueError(f"its {entry} are {str(values)[:40]}")
    except (ValueError, RecursionError) as error:
        raise SweepError(f"{path} is damaged: {error}{RESTORE}") from error


def _checked(
    path: Path, metadata: Any, trial: int, rank: Any, state: dict[str, Tensor]
) -> tuple[SideNetworkSpec, LaneWeights]:
    """What was read of a trial, once it is known to make a side-network."""
    try:
        spec = SideNetworkSpec.of_metadata(metadata)
        config = LaneConfig(**json.loads(metadata["lane_config"])) if spec.is_own else None
        weights = LaneWeights(trial, int(rank), spec, state, config)
        spec.trained(weights.rank, state, config)
    except KeyError as error:
        raise SweepError(f"{path} does not say its {error}: it was not written by this version of sweep") from error
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise SweepError(f"{path} is damaged: {error}{RESTORE}") from error
    return spec, weights
