"""What becomes of trials, written down twice: in our own log, and in Optuna's study.

A run that goes on after it was killed repeats what its last snapshot does not hold. Optuna's study may hold it already,
and is not told twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from sweep.machine.seeds import derive_seed
from sweep.records.reporter import Reporter, SearchProgress
from sweep.records.trial_log import TrialLog, TrialRecord
from sweep.search.own_attributes import OwnAttributes
from sweep.search.proposals import ENTERED, LANE, Proposal
from sweep.study.declaration import Study
from sweep.study.objectives import INFERENCE_SECONDS, Objectives, non_dominated_fronts
from sweep.training.engine import Lane

SHAPE = "shape"
"""The user attribute of a trial whose study has lanes of several shapes: that of its lane, in words."""

MAX_REPORTS = 50
"""Intermediate values a trial that Optuna gets to see; its dashboard ships each of them. Our curves have all."""


@dataclass
class Entrant:
    """A trial on its way through its lanes, one a replicate.

    Attributes:
        proposal: Optuna's trial and its configuration.
        record: Ours.
        lanes: As the engine has them; empty while it waits for some.
        slots: Their numbers.
        reported: The last epoch that Optuna was told; it takes each once, also of a trial that trains again.
        curve: Values of the objectives by epoch, for studies of several, which Optuna lets report nothing.
    """

    proposal: Proposal
    record: TrialRecord
    lanes: list[Lane] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    reported: int = 0
    curve: dict[int, list[float]] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.record.state == "RUNNING"


class Ledger:
    """The trials of a search.

    Args:
        optuna_study: Told everything.
        study: What is searched.
        reporter: Told of every trial that ends.

    Attributes:
        log: Our records.
        objectives: What ranks trials.
        rungs: Epochs at which trials are compared.
    """

    def __init__(self, optuna_study: optuna.Study, study: Study, reporter: Reporter):
        self.optuna_study = optuna_study
        self.reporter = reporter
        self.study = study
        self.own = OwnAttributes.of(optuna_study)
        self.objectives: Objectives = study.ranking
        self.log = TrialLog(self.objectives, study.kind)
        self.rungs = study.halving.rungs(study.epochs) if study.halving else []

    def enter(self, proposal: Proposal, trainable: int, inference_seconds: float | None, shape: str) -> Entrant:
        """Open the record of a trial that was just proposed.

        Args:
            proposal: Of the trial.
            trainable: Parameters of its side-network.
            inference_seconds: Of its side-network for one image, where the study asks for it.
            shape: Of its lane in words; empty where all lanes have one.
        """
        number = proposal.number
        replicates = range(1, self.study.seeds)  # after the first, whose seed does not depend on their number
        seeds = [derive_seed(self.study.seed, "initialisation", number)]
        seeds += [derive_seed(self.study.seed, "initialisation", number, i) for i in replicates]
        lane_config = proposal.config.as_recorded()
        record = TrialRecord(
            number, proposal.params, seeds, trainable, proposal.user_attrs, proposal.feasible, lane_config
        )
        attributes: dict[str, Any] = {"seed": seeds[0]}
        if inference_seconds is not None:
            record.inference_seconds = attributes[INFERENCE_SECONDS] = inference_seconds
        if shape:
            record.shape = attributes[SHAPE] = shape
        self.log.records.append(record)
        entrant = Entrant(proposal, record)
        self._annotate(entrant, {**attributes, ENTERED: trainable})  # last: what has it has all the others
        return entrant

    def place(self, entrant: Entrant) -> None:
        """A trial has lanes."""
        entrant.record.lane = entrant.slots[0]
        self._annotate(entrant, {LANE: entrant.record.lane})

    def report(self, entrant: Entrant) -> None:
        """Let Optuna see the last epoch, of long trials only some."""
        epoch, n_epochs, known = entrant.record.epochs, self.study.epochs, entrant.proposal.known
        stride = -(-n_epochs // MAX_REPORTS)
        shown = epoch % stride == 0 or epoch == n_epochs or epoch in self.rungs
        if epoch <= entrant.reported or not shown:
            return
        entrant.reported = epoch
        values = self.objectives.values(entrant.record.measured())
        if len(values) > 1:
            entrant.curve[epoch] = values
        elif entrant.proposal.trial and not (known and epoch in known.intermediate_values):
            entrant.proposal.trial.report(values[0], epoch)

    def complete(self, entrant: Entrant) -> None:
        """A trial is through."""
        entrant.record.state = "COMPLETE"
        self._annotate(entrant, self._numbers(entrant))
        self._tell(entrant, values=self.objectives.values(entrant.record.measured()))

    def prune(self, entrant: Entrant, reason: str) -> None:
        """A trial goes no further."""
        entrant.record.state, entrant.record.stopped = "PRUNED", reason
        self._annotate(entrant, {"stopped": reason, **self._numbers(entrant)})
        self._tell(entrant, state=TrialState.PRUNED)

    def fail(self, entrant: Entrant, reason: str) -> None:
        """A trial broke."""
        entrant.record.state, entrant.record.failure = "FAIL", reason
        self._annotate(entrant, {"failure": reason})
        self._tell(entrant, state=TrialState.FAIL)

    def _annotate(self, entrant: Entrant, attributes: Mapping[str, Any]) -> None:
        """Give Optuna's trial attributes of sweep's own, unless it has ended."""
        if entrant.proposal.trial is not None:
            for name, value in attributes.items():
                entrant.proposal.trial.set_user_attr(self.own.name(name), value)

    def _tell(self, entrant: Entrant, **ending: Any) -> None:
        """Tell Optuna how a trial ended, unless it knows; and whoever follows the run."""
        if entrant.proposal.trial is not None:
            self.optuna_study.tell(entrant.proposal.trial, **ending)
        self.reporter.trial_ended(entrant.record)

    def best_complete(self, n_trials: int) -> list[TrialRecord]:
        """The best complete trials, best first, in the order of `rank_trials`."""
        complete = [record for record in self.log.records if record.state == "COMPLETE"]
        costs = [self.objectives.costs(record.measured()) for record in complete]
        several = len(self.objectives.names) > 1
        fronts = non_dominated_fronts(np.array(costs)) if several else np.zeros(len(complete))

        def order(i: int) -> tuple[Any, ...]:
            record = complete[i]
            return (not record.feasible, fronts[i], *costs[i], record.metrics[self.objectives.tie], record.trial)

        return [complete[i] for i in sorted(range(len(complete)), key=order)[:n_trials]]

    def restart(self, entrant: Entrant) -> None:
        """A trial trains again from its first epoch."""
        entrant.lanes, entrant.slots = [], []
        self.log.restart(entrant.record)

    def _numbers(self, entrant: Entrant) -> dict[str, Any]:
        """What was measured of a trial; with several objectives also the curve that Optuna lets nobody report."""
        record = entrant.record
        numbers: dict[str, Any] = {**record.metrics, "seconds": record.seconds}
        if not entrant.curve:
            return numbers
        columns = map(list, zip(*entrant.curve.values(), strict=True))
        curve = dict(zip(self.objectives.names, columns, strict=True))
        return {**numbers, "curve": {"epoch": list(entrant.curve), **curve}}

    def progress(self) -> SearchProgress:
        """How far the search is."""
        records = self.log.records
        n_of = {state: sum(r.state == state for r in records) for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
        running = sum(r.epochs / self.study.epochs for r in records if r.state == "RUNNING")
        measured = [r for r in records if r.metrics and r.state == ("COMPLETE" if n_of["COMPLETE"] else "RUNNING")]
        best = min(measured, key=lambda r: self.objectives.costs(r.measured())[0], default=None)
        return SearchProgress(
            n_trials=max(self.study.trials, len(records)),
            n_complete=n_of["COMPLETE"],
            n_pruned=n_of["PRUNED"],
            n_failed=n_of["FAIL"],
            n_running=n_of["RUNNING"],
            trials_done=len(records) - n_of["RUNNING"] + running,
            objective=self.objectives.first,
            best=None if best is None else best.measured()[self.objectives.first],
        )
