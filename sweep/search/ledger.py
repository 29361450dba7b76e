"""Records the results of trials twice: in sweep's own log, and in Optuna's study.

A resumed run repeats the epochs that its last snapshot does not hold. Optuna's study may know their results already;
then it is not told again.
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
from sweep.search.own_attributes import ENTERED, LANE, LANE_CONFIG, OwnAttributes
from sweep.search.proposals import Proposal
from sweep.study.declaration import Study
from sweep.study.objectives import INFERENCE_SECONDS, Objectives, non_dominated_fronts

SHAPE = "shape"
"""The user attribute that holds the shape of a trial's lane in words, if the study has lanes of several shapes."""

MAX_REPORTS = 50
"""Most intermediate values of a trial that Optuna is told, since its dashboard sends each one to the browser. The
table of curves has all of them."""


@dataclass
class Entrant:
    """A trial with the lanes that train it, one per replicate.

    Attributes:
        proposal: Optuna's trial and its configuration.
        record: The trial's record in sweep's log.
        slots: Numbers of its lanes; empty while it waits for some.
        reported: The last epoch that Optuna was told. Optuna takes each epoch once, even if the trial trains again.
        curve: Values of the objectives by epoch, if there are several: Optuna takes no intermediate values then.
    """

    proposal: Proposal
    record: TrialRecord
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
        optuna_study: Optuna's study, which is told the results.
        study: The study to search.
        reporter: Receives an event for every trial that ends.

    Attributes:
        log: The records of all trials.
        objectives: The objectives that rank trials.
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
            proposal: The trial's proposal.
            trainable: Number of trainable parameters of its side-network.
            inference_seconds: Time of its side-network for one image, if this is an objective.
            shape: The shape of its lane in words; empty if all lanes have the same shape.
        """
        number = proposal.number
        replicates = range(1, self.study.lanes_per_trial)  # the first one's seed does not depend on their number
        seeds = [derive_seed(self.study.seed, "initialisation", number)]
        seeds += [derive_seed(self.study.seed, "initialisation", number, i) for i in replicates]
        lane_config = proposal.config.as_recorded()
        record = TrialRecord(
            number, proposal.params, seeds, trainable, proposal.user_attrs, proposal.feasible, lane_config
        )
        attributes: dict[str, Any] = {"seed": seeds[0]}
        if self.own.prefix:  # in a run of version 0.3.0, a study may have an attribute of that name
            attributes[LANE_CONFIG] = lane_config
        if inference_seconds is not None:
            record.inference_seconds = attributes[INFERENCE_SECONDS] = inference_seconds
        if shape:
            record.shape = attributes[SHAPE] = shape
        self.log.records.append(record)
        entrant = Entrant(proposal, record)
        self._annotate(entrant, {**attributes, ENTERED: trainable})  # last: it says that the others are set
        return entrant

    def place(self, entrant: Entrant) -> None:
        """Record which lanes a trial was given."""
        entrant.record.lane = entrant.slots[0]
        self._annotate(entrant, {LANE: entrant.record.lane})

    def report(self, entrant: Entrant) -> None:
        """Tell Optuna the values of the last epoch. Of long trials it is told only some epochs."""
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
        """Record that a trial is complete."""
        entrant.record.state = "COMPLETE"
        self._annotate(entrant, self._numbers(entrant))
        self._tell(entrant, values=self.objectives.values(entrant.record.measured()))

    def prune(self, entrant: Entrant, reason: str) -> None:
        """Record that a trial was stopped early, and why."""
        entrant.record.state, entrant.record.stopped = "PRUNED", reason
        self._annotate(entrant, {"stopped": reason, **self._numbers(entrant)})
        self._tell(entrant, state=TrialState.PRUNED)

    def fail(self, entrant: Entrant, reason: str) -> None:
        """Record that a trial failed, and why."""
        entrant.record.state, entrant.record.failure = "FAIL", reason
        self._annotate(entrant, {"failure": reason})
        self._tell(entrant, state=TrialState.FAIL)

    def _annotate(self, entrant: Entrant, attributes: Mapping[str, Any]) -> None:
        """Set sweep's own attributes of Optuna's trial, unless the trial has ended."""
        if entrant.proposal.trial is not None:
            for name, value in attributes.items():
                entrant.proposal.trial.set_user_attr(self.own.name(name), value)

    def _tell(self, entrant: Entrant, **ending: Any) -> None:
        """Tell the reporter how a trial ended, and Optuna too unless it already knows."""
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
        """Record that a trial trains again from its first epoch."""
        entrant.slots = []
        self.log.restart(entrant.record)

    def _numbers(self, entrant: Entrant) -> dict[str, Any]:
        """A trial's metrics. With several objectives also its curve, since Optuna takes no intermediate values then."""
        record = entrant.record
        numbers: dict[str, Any] = {**record.metrics, "seconds": record.seconds}
        if not entrant.curve:
            return numbers
        columns = map(list, zip(*entrant.curve.values(), strict=True))
        curve = dict(zip(self.objectives.names, columns, strict=True))
        return {**numbers, "curve": {"epoch": list(entrant.curve), **curve}}

    def progress(self) -> SearchProgress:
        """The progress of the search."""
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
