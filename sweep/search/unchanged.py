"""Checks that `suggest` still makes the same configurations as when the run began, for every recorded trial."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sweep.errors import UsageError
from sweep.records.trial_log import TrialRecord
from sweep.study.lane_config import LaneConfig

if TYPE_CHECKING:
    from sweep.search.proposals import Proposal

UNDO = "undo the change of the study's file, or start a new run"


def require_same_lanes(proposals: "Mapping[int, Proposal]", records: Iterable[TrialRecord]) -> None:
    """Raise an error if `suggest` makes another configuration from a recorded trial's parameters.

    Args:
        proposals: What `suggest` makes now, by number of trial.
        records: The records of the trials.

    Raises:
        UsageError: `suggest` was edited since the run began.
    """
    for record in records:
        proposal = proposals.get(record.trial)
        if proposal is not None and record.lane_config:
            require_same_lane(record.trial, proposal.config, record.lane_config)


def require_same_lane(trial: int, config: LaneConfig, recorded: Mapping[str, Any]) -> None:
    """Raise an error if a trial's configuration is not the recorded one.

    Args:
        trial: Number of the trial.
        config: What `suggest` makes of its parameters now.
        recorded: What `suggest` made when the trial began. Records of version 0.3.0 may lack later hyperparameters,
            which had their defaults.

    Raises:
        UsageError: `suggest` was edited since the trial began, or another version of sweep recorded the trial.
    """
    try:
        configs = (LaneConfig(**recorded), config)
    except TypeError as error:
        raise UsageError(
            f"the recorded configuration of trial {trial} is not one of this version of sweep: {error}; resume the run "
            f"with the version that config.json names"
        ) from error
    before, now = (json.loads(json.dumps(asdict(config))) for config in configs)  # a snapshot has lists for tuples
    if changed := [name for name in now if now[name] != before[name]]:
        name = changed[0]
        raise UsageError(
            f"the study's suggest now gives trial {trial} {name} = {now[name]!r}, but the trial began with "
            f"{before[name]!r}; {UNDO}"
        )
