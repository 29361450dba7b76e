"""Weights of the best few trials of a run, not only of the winner, in one file of the run folder."""

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
"""Number of trials whose weights a run keeps. They take a few MB, however many trials the run has."""


@dataclass(frozen=True)
class LaneWeights:
    """The weights of one trial.

    Attributes:
        trial: Optuna's number of the trial.
        rank: Rank `r` of its modules.
        spec: Structure of its side-network.
        state: The `state_dict` of a plain side-network of that rank.
        config: The trial's configuration. Read from a file, it is None unless the side-network is the study's own,
            which is built from it.
    """

    trial: int
    rank: int
    spec: SideNetworkSpec
    state: dict[str, Tensor]
    config: LaneConfig | None = None


class KeptWeights:
    """The weights that a run keeps while it goes on. The caller decides which trials to keep."""

    def __init__(self) -> None:
        self._by_trial: dict[int, LaneWeights] = {}

    def __getitem__(self, trial: int) -> LaneWeights:
        return self._by_trial[trial]

    def __iter__(self) -> Iterator[LaneWeights]:
        return iter(self._by_trial.values())

    def add(self, weights: LaneWeights) -> None:
        """Keep a trial's weights until `retain` drops them."""
        self._by_trial[weights.trial] = weights

    def retain(self, trials: Iterable[int]) -> None:
        """Drop the weights of all trials but these."""
        kept = set(trials)
        self._by_trial = {trial: weights for trial, weights in self._by_trial.items() if trial in kept}

    def write(self, folder: RunFolder) -> None:
        """Write the weights to the run folder and replace the file of before. Without any weights, write nothing."""
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
        folder: The folder of a run.
        trial: Optuna's number of the trial.
        winner: Number of the trial whose weights are in `winner.safetensors`.

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


def retrained_weights(folder: RunFolder, winner: int) -> tuple[SideNetworkSpec, LaneWeights]:
    """Like `weights_of`, for the winner after it was trained again on train and val.

    Raises:
        SweepError: The file is missing or damaged.
    """
    metadata, state = read_weights_and_metadata(folder.retrained_path)
    return _checked(folder.retrained_path, metadata, winner, metadata.get("rank"), state)


def _key(trial: int, name: str) -> str:
    return f"trial {trial}/{name}"


def _by_trial(path: Path, metadata: dict[str, str], entry: str) -> dict[str, Any]:
    """An entry of the file's metadata, by number of trial; empty if a version before 0.4 wrote the file without it."""
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
    """The structure and weights that were read of a trial, after checking that they make a side-network."""
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
