"""Carries out the requests of `sweep stop` and `sweep clone` between two epochs of a search."""

from typing import Any

from sweep.errors import UsageError
from sweep.search.ledger import Ledger
from sweep.search.occupancy import Occupancy
from sweep.search.proposals import Proposals
from sweep.search.requests import Request
from sweep.search.unchanged import UNDO
from sweep.study.asking import check_fixed


def carry_out(request: Request, proposals: Proposals, lanes: Occupancy, ledger: Ledger) -> str:
    """Stop the trial of a request, or put its clone next in line.

    Args:
        request: The request.
        proposals: Proposes the trials of the search; gets the clone.
        lanes: The lanes of the search; a trial that is stopped leaves its lanes.
        ledger: Records of all trials.

    Returns:
        What was done, or why nothing was done, in words for the user.

    Raises:
        UsageError: The search was resumed, and the study now refuses a clone that it accepted before.
    """
    if request.action == "stop":
        return _stop(request.trial, lanes, ledger)
    return _clone(request.trial, request.params, proposals, lanes, ledger)


def _stop(trial: int, lanes: Occupancy, ledger: Ledger) -> str:
    entrants = [entrant for entrant in lanes.entrants if entrant.record.trial == trial]
    if trial == 0 or not entrants:
        reason = "all others are compared with it" if trial == 0 else "it is not in training"
        return f"trial {trial} is not stopped: {reason}"
    (entrant,) = entrants
    ledger.prune(entrant, f"on request, after epoch {entrant.record.epochs}")
    lanes.leave()
    return f"trial {trial} was stopped on request, after epoch {entrant.record.epochs}"


def _clone(trial: int, params: dict[str, Any], proposals: Proposals, lanes: Occupancy, ledger: Ledger) -> str:
    if all(record.trial != trial for record in ledger.log.records):
        return f"trial {trial} is not cloned: this run has none of that number"
    try:
        check_fixed(lanes.study, params, f"the clone of trial {trial}", partial=True)
    except UsageError as error:
        if proposals.clone_was_enqueued:  # `suggest` accepted it then
            raise UsageError(f"{error}; {UNDO}") from error
        return f"{error}; the request is ignored"
    proposals.add_clone(trial, params)
    return f"a clone of trial {trial} is next in line"
