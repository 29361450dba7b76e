"""The search: Optuna proposes configurations, stacks train them together, and Optuna is told the results.

Trials end at the end of an epoch: at a rung, after their last epoch, or because they failed. Before the next epoch
their lanes are given to new trials, which Optuna proposes with all results so far. The other lanes keep training.

Between two epochs the search can be written to disk (`sweep.search.snapshot`), and another process can continue it.
Everything that follows depends only on the attributes of `Search` and on Optuna's storage.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sweep.records.paired import paired_difference
from sweep.records.reporter import Reporter
from sweep.records.trial_log import TrialRecord
from sweep.search.admission import Admission
from sweep.search.carrying_out import carry_out
from sweep.search.journal import written_together
from sweep.search.lane_weights import KEPT_TRIALS, KeptWeights, LaneWeights
from sweep.search.ledger import Entrant, Ledger
from sweep.search.occupancy import Occupancy
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox
from sweep.search.rungs import Arrival, RungTable
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.budget import Budget, duration_text
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackEpoch

SAVING_SHARE = 0.02
"""Largest share of the wall time that saving tables and snapshots may take while trials train."""


@dataclass(frozen=True)
class Winner:
    """The best complete trial so far.

    Attributes:
        record: The trial's record, with its metrics.
        config: Configuration of its lane.
        spec: Structure of its side-network.
        state: Weights of its first replicate, as a `state_dict` of a plain side-network of its own rank.
    """

    record: TrialRecord
    config: LaneConfig
    spec: SideNetworkSpec
    state: dict[str, Tensor]


class Search:
    """One study's trials.

    Args:
        proposals: Proposes the trials.
        lanes: The lanes that train them; made for the same study.
        budget: Ends the search before all of the study's trials are trained.
        reporter: Receives progress events.
        inbox: Requests that the user makes while the search runs.
        save_tables: Called with the search; writes its tables and its winner to disk.
        save_snapshot: Called with the search between two epochs; writes all that is needed to continue it to disk.

    Attributes:
        study: The study to search.
        ledger: Records of all trials.
        admission: Proposes trials and gives them free lanes.
        kept: Weights of the best few trials.
        rungs: Results of the trials that reached each rung; None if the study has no rungs.
        baseline_answers: Score of trial 0 on each image of the validation set, by epoch; see `Target.of_images`.
        ended: Why the search ended, as a clause that follows "because".
        search_seconds: Wall time of earlier processes, up to the snapshot that this process continued from.
    """

    def __init__(
        self,
        proposals: Proposals,
        lanes: Occupancy,
        *,
        budget: Budget,
        reporter: Reporter,
        inbox: Inbox,
        save_tables: Callable[["Search"], None],
        save_snapshot: Callable[["Search"], None],
    ):
        self.proposals = proposals
        self.lanes = lanes
        self.study = study = lanes.study
        self.ledger = Ledger(proposals.optuna_study, study, reporter)
        self.admission = Admission(proposals, lanes, self.ledger)
        self.budget = budget
        self.reporter = reporter
        self.inbox = inbox
        self.save_tables, self.save_snapshot = save_tables, save_snapshot
        self.kept = KeptWeights()
        self.rungs = RungTable(study.halving) if study.halving else None
        self.baseline_answers: dict[int, Tensor] = {}
        self.ended = ""
        self.search_seconds = 0.0
        self._started = self._saved = time.perf_counter()
        self._saving_seconds = 0.0
        self._written_together = partial(written_together, proposals.optuna_study)

    @property
    def winner(self) -> Winner | None:
        """The best complete trial so far."""
        for record in self.ledger.best_complete(1):
            weights = self.kept[record.trial]
            return Winner(record, LaneConfig(**record.lane_config), weights.spec, weights.state)
        return None

    @property
    def wall_seconds(self) -> float:
        """Seconds that the search has taken until now, including those of earlier processes."""
        return self.search_seconds + time.perf_counter() - self._started

    def run(self) -> None:
        """Train trials, as many lanes at a time as fit, until the budget is spent or nothing new is proposed.

        If a stack does not fit in memory, it is halved and its trials start again. Later stacks of the same shape get
        half the size, too.

        Raises:
            UsageError: The study proposes a configuration that cannot be trained.
            SweepError: Not even one trial fits in memory.
            KeyboardInterrupt: The user stopped the run. Its tables were saved, and it can be resumed from its snapshot.
        """
        self._started = self._saved = time.perf_counter()
        self.reporter.search_started(self.study.trials, self.study.epochs)
        gc.freeze()  # objects made by imports are never garbage, and scanning them takes a sixth of a second
        try:
            while not self.ended:
                self._advance()
                self.lanes.trainer.free_memory()
            for path in self.inbox.unread():
                self.reporter.message(f"the search ended before the request {path} was carried out")
            for entrant in self.lanes.entrants:
                self.ledger.prune(entrant, self.ended)
            self.lanes.leave()
            self._save()
        except BaseException:
            if self.ledger.log.records:
                self.save_tables(self)
            raise
        finally:
            gc.unfreeze()
            self.reporter.search_ended()

    def _advance(self) -> None:
        """Fill the free lanes and train all of them for an epoch, unless the search is over."""
        if self._over():
            self._save()  # before the trials end: a process that resumes later must not end other ones by its own clock
            return
        self._attend_to_requests()
        with self._written_together():
            self.admission.fill()
        if self.lanes.running:
            self._train_epoch()
            self._save_sometimes()
            return
        n_trials = len(self.ledger.log.records)
        if self.proposals.exhausted:
            self.ended = f"nothing new was left to propose after {n_trials} trials"
        else:
            self.ended = f"all {n_trials} trials have ended"

    def _over(self) -> bool:
        """Whether the budget ends the search now."""
        seconds, target = self.budget.wall_seconds, self.budget.target
        if target is not None and (winner := self.winner) is not None:
            first, record = self.ledger.objectives.first, winner.record
            value = record.measured()[first]
            if self.ledger.objectives.reaches(value, target):
                self.ended = f"trial {record.trial} reached the target of {target:g} with {first} {value:.4g}"
        if not self.ended and seconds is not None and self.wall_seconds >= seconds:
            self.ended = f"the time of {duration_text(seconds)} was over"
        return bool(self.ended)

    def _attend_to_requests(self) -> None:
        """Carry out the user's requests: stop trials, and put clones next in line."""
        if self.inbox.unread():
            for line in self.inbox.look():
                self.reporter.message(line)
            self._save()  # before a request is carried out: a resumed process then carries it out at the same epoch
        for request in self.inbox.pending:
            self.reporter.message(carry_out(request, self.proposals, self.lanes, self.ledger))
        self.inbox.pending = []

    def _train_epoch(self) -> None:
        answers: dict[int, Tensor] = {}
        for shape, result in self.lanes.train_epoch(self.reporter):
            if isinstance(result, StackEpoch):
                answers |= self._log(self.lanes.stacks[shape], result)
            else:
                self._halve(shape, result)
        self._compare_with_baseline(answers)
        self._end_trials()
        if answers:
            self.reporter.epoch_ended(self.ledger.progress())

    def _log(self, entrants: Sequence[Entrant], result: StackEpoch) -> dict[int, Tensor]:
        """Log and report an epoch of a stack's trials, and fail the trials that went wrong.

        Returns:
            By trial, its score on each image of the validation set; see `Target.of_images`.
        """
        answers = {}
        with self._written_together():
            for entrant in entrants:
                record = entrant.record
                of_trial, epoch = result.trials[record.trial], record.epochs + 1
                self.ledger.log.measured(record, epoch, of_trial.metrics, of_trial.wall_seconds)
                if of_trial.failure:
                    self.ledger.fail(entrant, f"epoch {epoch}: {of_trial.failure}")
                    continue
                answers[record.trial] = of_trial.answers
                self.ledger.report(entrant)
                self.reporter.trial_measured(record)
        return answers

    def _compare_with_baseline(self, answers: Mapping[int, Tensor]) -> None:
        """Compare trials with the baseline at the same epoch, once all stacks are measured.

        Args:
            answers: By trial, its score on each image of the validation set.
        """
        running = {entrant.record.trial: entrant.record for entrant in self.lanes.running}
        if 0 in answers:
            self.baseline_answers[running[0].epochs] = answers[0]
        for trial, of_trial in answers.items():
            record = running[trial]
            if record.epochs in self.baseline_answers:
                record.vs_baseline = paired_difference(of_trial, self.baseline_answers[record.epochs])

    def _end_trials(self) -> None:
        """Complete the trials that had their last epoch, stop those that lose at a rung, and free their lanes."""
        stopped = self._stopped_at_rungs()
        running = self.lanes.running
        complete = [e for e in running if e.alive and e.record.epochs == self.study.epochs]
        pruned = [e for e in running if e.record.trial in stopped]
        broken = [e for e in running if not e.alive]
        if not (complete or pruned or broken):
            return
        with self._written_together():
            for entrant in complete:
                self.ledger.complete(entrant)
            for entrant in pruned:
                self.ledger.prune(entrant, f"at the rung of epoch {entrant.record.epochs}")
        if complete:
            self._keep_weights(complete)
        self.lanes.leave()

    def _stopped_at_rungs(self) -> set[int]:
        """Numbers of the trials to stop at a rung. The baseline never stops: all others are compared with it."""
        if self.rungs is None:
            return set()
        arrivals: dict[int, list[Arrival]] = {}
        for entrant in self.lanes.running:
            record = entrant.record
            if entrant.alive and record.epochs in self.ledger.rungs:
                objectives = self.ledger.objectives
                arrival = Arrival(record.trial, objectives.costs(record.measured()), record.metrics[objectives.tie])
                arrivals.setdefault(record.epochs, []).append(arrival)
        return self.rungs.stopped(arrivals) - {0}

    def _keep_weights(self, complete: Sequence[Entrant]) -> None:
        """Keep the weights of those trials that are among the best complete trials so far."""
        best = {record.trial for record in self.ledger.best_complete(KEPT_TRIALS)}
        for entrant in complete:
            trial, config = entrant.record.trial, entrant.proposal.config
            if trial in best:
                spec, state = self.lanes.setting(config).spec, self.lanes.trainer.weights(entrant)
                self.kept.add(LaneWeights(trial, config.rank, spec, spec.trimmed(config.rank, state), config))
        self.kept.retain(best)

    def _halve(self, shape: Shape, error: BaseException) -> None:
        """After memory ran out, start a stack's trials again, half as many at a time.

        Raises:
            SweepError: Not even one trial fits.
        """
        restarted = list(self.lanes.stacks[shape])
        message = self.lanes.halve(shape, error)
        for entrant in restarted:
            self.ledger.restart(entrant)
        self.reporter.message(message)
        self.lanes.trainer.free_memory()

    def _save_sometimes(self) -> None:
        """Save, unless saving would take more than `SAVING_SHARE` of the time."""
        if time.perf_counter() - self._saved >= self._saving_seconds / SAVING_SHARE:
            self._save()

    def _save(self) -> None:
        """Write the tables and a snapshot to disk."""
        began = time.perf_counter()
        self.save_tables(self)
        self.save_snapshot(self)
        self._saved = time.perf_counter()
        self._saving_seconds = self._saved - began
