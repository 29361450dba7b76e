"""Checks that `suggest` still makes the same configurations as when the run began, for every recorded trial."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from sweep.errors import UsageError
from sweep.records.trial_log import TrialRecord
from sweep.search.proposals import Proposal
from sweep.study.lane_config import LaneConfig


def require_same_lanes(proposals: Mapping[int, Proposal], records: Iterable[TrialRecord]) -> None:
    """Raise an error if `suggest` makes another configuration from a recorded trial's parameters.

    Args:
        proposals: What `suggest` makes now, by number of trial.
        records: The records of the trials. Records of version 0.3.0 may lack later hyperparameters, which had their
            defaults.

    Raises:
        UsageError: `suggest` was edited since the run began.
    """
    for record in records:
        proposal = proposals.get(record.trial)
        if proposal is None or not record.lane_config:
            continue
        configs = (LaneConfig(**record.lane_config), proposal.config)
        before, now = (json.loads(json.dumps(asdict(config))) for config in configs)  # a snapshot has lists for tuples
        if changed := [name for name in now if now[name] != before[name]]:
            name = changed[0]
            raise UsageError(
                f"the study's suggest now gives trial {record.trial} {name} = {now[name]!r}, but the trial began with "
                f"{before[name]!r}; undo the change of the study's file, or start a new run"
            )
