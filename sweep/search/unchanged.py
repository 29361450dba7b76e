"""Does `suggest` still give what it gave when the run began? Asked of every trial that a run that goes on knows."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from sweep.errors import UsageError
from sweep.records.trial_log import TrialRecord
from sweep.search.proposals import Proposal
from sweep.study.lane_config import LaneConfig


def require_same_lanes(proposals: Mapping[int, Proposal], records: Iterable[TrialRecord]) -> None:
    """Refuse to go on where `suggest` makes another configuration of a recorded trial's parameters.

    Args:
        proposals: What `suggest` gives now, by number of trial.
        records: What was recorded; a record of version 0.3.0 may lack later hyperparameters, which had their defaults.

    Raises:
        UsageError: The study's file was edited.
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
                f"the study's suggest gives trial {record.trial} {name} = {now[name]!r} now, and the trial was begun "
                f"with {before[name]!r}; undo the change of the study's file, or begin a new run"
            )
