"""Captures a search between two epochs as JSON and tensors, and restores it from them.

A snapshot holds the lanes with their weights, optimizer states and epochs, the data order, the rungs and the log.
Together with Optuna's storage this is all that a search depends on, so a restored search continues bit for bit as the
captured one would have.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any

import torch
from torch import Tensor

from sweep.errors import SweepError
from sweep.machine.checked_files import LARGEST_WHOLE
from sweep.records.curves import Curves
from sweep.records.paired import Difference
from sweep.records.trial_log import TrialRecord
from sweep.search.lane_weights import LaneWeights
from sweep.search.ledger import Entrant
from sweep.search.proposals import Proposal
from sweep.search.rungs import Arrival
from sweep.search.search import Search
from sweep.search.unchanged import require_same_lanes
from sweep.training.lane_state import LaneState

FORMAT = 4
READABLE_FORMATS = (3, FORMAT)
"""Version 0.3 wrote format 3, in which all lanes have one shape."""
ENTRIES: Mapping[str, type | UnionType] = {
    **dict.fromkeys(("n_parallel", "order", "n_asked", "n_clones"), int),
    **dict.fromkeys(("search_seconds", "training_seconds", "lane_seconds"), int | float),
    **dict.fromkeys(("free_slots", "records", "metrics", "running", "waiting"), list),
    **dict.fromkeys(("requests", "kept", "arrivals"), dict),
    **{"ended": str, "exhausted": bool},
}


@dataclass(frozen=True)
class Snapshot:
    """The state of a search.

    Attributes:
        state: The part that JSON can hold.
        tensors: Weights, optimizer states, curves and scores per image, by name, on the CPU.
    """

    state: dict[str, Any]
    tensors: dict[str, Tensor]


def capture(search: Search) -> Snapshot:
    """Capture a search while no epoch is running."""
    log, tensors = search.ledger.log, {}
    tensors["curves/where"] = torch.from_numpy(log.curves.where)
    tensors["curves/value"] = torch.from_numpy(log.curves.values)
    states = search.lanes.trainer.states(search.lanes.running)
    for trial, of_trial in states.items():
        for replicate, lane in enumerate(of_trial):
            tensors |= _prefixed(_lane_name(trial, replicate, "module"), lane.weights or {})
            tensors |= _prefixed(_lane_name(trial, replicate, "optimizer"), lane.optimizer)
    for weights in search.kept:
        tensors |= _prefixed(f"kept/{weights.trial}", weights.state)
    tensors |= {f"baseline/{epoch}": answers for epoch, answers in search.baseline_answers.items()}
    arrivals = search.rungs.arrivals if search.rungs else {}
    state = {
        "format": FORMAT,
        "n_parallel": search.lanes.n_parallel,
        "free_slots": search.lanes.free_slots,
        "order": search.lanes.order,
        "ended": search.ended,
        "search_seconds": search.wall_seconds,
        "training_seconds": search.lanes.training_seconds,
        "lane_seconds": search.lanes.lane_seconds,
        "n_asked": search.proposals.n_asked,
        "exhausted": search.proposals.exhausted,
        "n_clones": search.proposals.n_clones,
        "leads": [trial for trial, _ in search.admission.filling.leads],
        "most_trials": _most_trials(search),
        "requests": search.inbox.state(),
        "records": [asdict(record) for record in log.records],
        "metrics": log.curves.metrics,
        "running": [_entrant_state(entrant, states[entrant.record.trial]) for entrant in search.lanes.running],
        "waiting": [_entrant_state(entrant, []) for entrant in search.lanes.waiting],
        "kept": {str(weights.trial): weights.rank for weights in search.kept},
        "arrivals": {str(rung): [asdict(a) for a in of_rung.values()] for rung, of_rung in arrivals.items()},
    }
    return Snapshot(state, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def restore(search: Search, snapshot: Snapshot) -> None:
    """Restore the state of a captured search in a new one that has not begun.

    Raises:
        SweepError: The snapshot has the format of another version, or does not fit the search.
        UsageError: The study's `suggest` refuses a recorded trial, or makes another configuration of it.
    """
    if snapshot.state.get("format") not in READABLE_FORMATS:
        raise SweepError(
            f"the snapshot has format {snapshot.state.get('format')!r}, and this version of sweep reads {FORMAT}; "
            f"resume the run with the version that config.json names"
        )
    try:
        _restore(search, snapshot.state, snapshot.tensors)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise SweepError(f"the snapshot does not fit the study: {type(error).__name__}: {error}") from error


def _restore(search: Search, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, expected in ENTRIES.items():
        value = state[name]
        if not isinstance(value, expected) or (isinstance(value, int | float) and not 0 <= value < LARGEST_WHOLE):
            raise ValueError(f"its entry {name} is {str(value)[:40]!r}")
    log, groups = search.ledger.log, _grouped(tensors)
    log.records = [_record(values) for values in state["records"]]
    records = {record.trial: record for record in log.records}
    log.curves = Curves.of(state["metrics"], groups["curves"]["where"].numpy(), groups["curves"]["value"].numpy())
    proposals = search.proposals.recall(state["n_asked"])
    require_same_lanes(proposals, log.records)
    search.proposals.exhausted, search.proposals.n_clones = state["exhausted"], state["n_clones"]
    search.inbox.restore(**state["requests"])
    if search.admission.latency is not None:
        for proposal in proposals.values():
            search.admission.latency.of(proposal)
    search.ended, search.search_seconds = state["ended"], state["search_seconds"]
    for name in ("n_parallel", "free_slots", "order", "training_seconds", "lane_seconds"):
        setattr(search.lanes, name, state[name])
    for trial, most in state.get("most_trials", []):
        search.lanes.most_trials[search.lanes.shape(proposals[trial].config)] = most
    for values in state["running"]:
        entrant = _entrant(values, records, proposals)
        search.lanes.take_up(entrant, list(_lanes(search, entrant, values["epochs"], groups)))
    search.lanes.waiting = [_entrant(values, records, proposals) for values in state["waiting"]]
    for trial, rank in state["kept"].items():
        config = proposals[int(trial)].config
        spec = search.lanes.setting(config).spec
        search.kept.add(LaneWeights(int(trial), rank, spec, groups[f"kept/{trial}"], config))
    for trial in state.get("leads", []):
        search.admission.filling.lead(trial, search.lanes.shape(proposals[trial].config))
    search.baseline_answers = {int(epoch): answers for epoch, answers in groups["baseline"].items()}
    if search.rungs is not None:
        for rung, arrivals in state["arrivals"].items():
            search.rungs.arrivals[int(rung)] = {a["trial"]: Arrival(**a) for a in arrivals}


def _most_trials(search: Search) -> list[tuple[int, int]]:
    """For each shape that ran out of memory: one of its trials, and the number of trials that fit."""
    by_shape = {search.lanes.shape(proposal.config): proposal.number for proposal in search.proposals.accepted}
    return [(by_shape[shape], most) for shape, most in search.lanes.most_trials.items()]


def _entrant_state(entrant: Entrant, lanes: Sequence[LaneState]) -> dict[str, Any]:
    return {
        "trial": entrant.record.trial,
        "slots": entrant.slots,
        "reported": entrant.reported,
        "curve": list(entrant.curve.items()),
        "epochs": [lane.epochs for lane in lanes],
    }


def _entrant(
    values: Mapping[str, Any], records: Mapping[int, TrialRecord], proposals: Mapping[int, Proposal]
) -> Entrant:
    return Entrant(
        proposals[values["trial"]],
        records[values["trial"]],
        slots=values["slots"],
        reported=values["reported"],
        curve=dict(values["curve"]),
    )


def _lanes(
    search: Search, entrant: Entrant, epochs: list[int], groups: Mapping[str, dict[str, Tensor]]
) -> Iterator[LaneState]:
    record = entrant.record
    for replicate, (seed, n_epochs) in enumerate(zip(record.seeds, epochs, strict=True)):
        weights, optimizer = (groups[_lane_name(record.trial, replicate, what)] for what in ("module", "optimizer"))
        fold = search.study.fold_of(replicate)
        yield LaneState(entrant.proposal.config, seed, n_epochs, weights, optimizer, fold)


def _record(values: Mapping[str, Any]) -> TrialRecord:
    difference = values["vs_baseline"]
    return TrialRecord(**{**values, "vs_baseline": None if difference is None else Difference(**difference)})


def _lane_name(trial: int, replicate: int, what: str) -> str:
    return f"lane/{trial}/{replicate}/{what}"


def _prefixed(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{owner}/{name}": tensor for name, tensor in tensors.items()}


def _grouped(tensors: Mapping[str, Tensor]) -> defaultdict[str, dict[str, Tensor]]:
    """Tensors by the part of their names before the last slash, and then by the part after it."""
    groups: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for path, tensor in tensors.items():
        owner, _, name = path.rpartition("/")
        groups[owner][name] = tensor
    return groups
