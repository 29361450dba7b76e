"""The search: Optuna proposes configurations, a stack trains them together, the results are told back."""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import torch
from optuna.trial import TrialState
from torch import Tensor

from sweep.batches import StageData, n_batches
from sweep.engine import EpochResult, Stack, train
from sweep.errors import SweepError, UsageError
from sweep.lanes import LaneConfig
from sweep.memory import is_out_of_memory
from sweep.reporter import Reporter
from sweep.seeds import derive_seed
from sweep.side_networks import trim_rank
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study import Study
from sweep.trial_log import TrialLog, TrialRecord

MAX_REPORTS = 50
"""Intermediate values a trial that Optuna gets to see; its dashboard ships each of them. Our curves have all."""


@dataclass
class _Entrant:
    """A trial on its way through a lane.

    Attributes:
        trial: Optuna's.
        config: What `suggest` made of it.
        record: Ours.
        reported: The last epoch that Optuna was told; it takes each once, also of a trial that trains again.
    """

    trial: optuna.Trial
    config: LaneConfig
    record: TrialRecord
    reported: int = 0


@dataclass(frozen=True)
class Winner:
    """The best complete trial so far.

    Attributes:
        record: Its numbers.
        config: What it was trained with.
        state: Its weights as a `state_dict` of a plain LAST of its own rank.
    """

    record: TrialRecord
    config: LaneConfig
    state: dict[str, Tensor]


class Search:
    """One study's trials, stack by stack.

    Args:
        optuna_study: Where trials are asked and told.
        study: What is searched.
        spec: Shape of the side-networks.
        train_data: What lanes learn from.
        val_data: What lanes are compared on.
        device: Where they train.
        reporter: Told what happens.
        save: Called with the search after every stack, finished or not, to bring its tables and winner to disk.

    Attributes:
        log: Records of all trials.
        winner: The best complete trial so far.
        training_seconds: Wall time inside training and evaluation.
    """

    def __init__(
        self,
        optuna_study: optuna.Study,
        study: Study,
        spec: SideNetworkSpec,
        train_data: StageData,
        val_data: StageData,
        *,
        device: torch.device,
        reporter: Reporter,
        save: Callable[["Search"], None],
    ):
        self.optuna_study = optuna_study
        self.study = study
        self.spec = spec
        self.train_data, self.val_data = train_data, val_data
        self.device = device
        self.reporter = reporter
        self.save = save
        self.log = TrialLog()
        self.winner: Winner | None = None
        self.training_seconds = 0.0
        self._n_stacks = 0

    def run(self, n_parallel: int) -> None:
        """Train all of the study's trials, `n_parallel` at a time; every stack's proposals know the results before it.

        A stack that does not fit in memory is halved, and its trials start again; so are all stacks after it.

        Raises:
            UsageError: The study proposes what cannot be trained.
            SweepError: Not even one lane fits in memory.
            KeyboardInterrupt: The user stopped the run; its running trials were told as failed and saved.
        """
        self.optuna_study.enqueue_trial(dict(self.study.baseline))
        n_unasked = self.study.trials
        waiting: list[_Entrant] = []  # asked, but neither complete nor failed
        while waiting or n_unasked:
            try:
                if not waiting:
                    for _ in range(min(n_parallel, n_unasked)):
                        waiting.append(self._ask())
                        n_unasked -= 1
                self._train(waiting[:n_parallel])
                self._n_stacks += 1
            except BaseException as error:
                n_lanes = min(n_parallel, len(waiting))
                if not is_out_of_memory(error) or n_lanes <= 1:
                    self._fail_running(waiting, "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
                    if is_out_of_memory(error):
                        raise SweepError(
                            f"one lane of batch size {self.study.batch_size} does not fit in the memory of "
                            f"{self.device}; lower --batch-size or --max-rank"
                        ) from error
                    raise
                n_parallel = -(-n_lanes // 2)
                self._restart(waiting[:n_lanes], n_parallel)
            finally:
                self.reporter.stack_ended()
                if self.log.records:
                    self.save(self)
            self._free_memory()
            waiting = [entrant for entrant in waiting if entrant.record.state == "RUNNING"]

    def _ask(self) -> _Entrant:
        trial = self.optuna_study.ask()
        try:
            config = self.study.lane_config(trial)
        except UsageError:
            self.optuna_study.tell(trial, state=TrialState.FAIL)
            raise
        seed = derive_seed(self.study.seed, "initialisation", trial.number)
        with torch.device("meta"):
            trainable = sum(p.numel() for p in self.spec.plain(config.rank).parameters())
        trial.set_user_attr("seed", seed)
        trial.set_user_attr("trainable_parameters", trainable)
        record = TrialRecord(trial.number, trial.params, seed, self._n_stacks, trainable)
        self.log.records.append(record)
        return _Entrant(trial, config, record)

    def _train(self, entrants: list[_Entrant]) -> None:
        for entrant in entrants:
            entrant.record.stack = self._n_stacks
        modules = [self.spec.lane(e.config.rank, e.record.seed).to(self.device) for e in entrants]
        stack = Stack(modules)
        steps_per_epoch = n_batches(len(self.train_data), self.study.batch_size)
        n_epochs = self.study.epochs
        self.reporter.stack_started(len(entrants), n_epochs, n_epochs * steps_per_epoch)
        results = train(
            stack,
            [entrant.config for entrant in entrants],
            self.train_data,
            self.val_data,
            n_epochs=n_epochs,
            batch_size=self.study.batch_size,
            seed=self.study.seed,
            on_step=self.reporter.step,
        )
        for result in results:
            self._measure(entrants, result)
        for lane, entrant in enumerate(entrants):
            self._complete(entrant, stack, lane)

    def _measure(self, entrants: list[_Entrant], result: EpochResult) -> None:
        """Log an epoch of every lane, report it to Optuna, and fail the lanes that diverged."""
        self.training_seconds += result.wall_seconds
        stride = -(-self.study.epochs // MAX_REPORTS)
        reported = result.epoch % stride == 0 or result.epoch == self.study.epochs
        for lane, entrant in enumerate(entrants):
            if entrant.record.state != "RUNNING":
                continue
            metrics = {f"val_{name}": values[lane].item() for name, values in result.val_metrics.items()}
            metrics["train_loss"] = result.train_loss[lane].item()
            self.log.measured(entrant.record, result.epoch, metrics, result.wall_seconds / len(entrants))
            if not all(torch.tensor(list(metrics.values())).isfinite()):
                self._fail(entrant, f"diverged in epoch {result.epoch}: training loss {metrics['train_loss']:.3g}")
            elif reported and result.epoch > entrant.reported:
                entrant.trial.report(metrics["val_top1"], result.epoch)
                entrant.reported = result.epoch
        n_failed = sum(record.state == "FAIL" for record in self.log.records)
        best = max((record.metrics.get("val_top1", 0.0) for record in self._unfailed()), default=0.0)
        self.reporter.epoch(result.epoch, best, n_failed)

    def _unfailed(self) -> list[TrialRecord]:
        return [record for record in self.log.records if record.state != "FAIL"]

    def _complete(self, entrant: _Entrant, stack: Stack, lane: int) -> None:
        record = entrant.record
        if record.state != "RUNNING":
            return
        record.state = "COMPLETE"
        for name, value in record.metrics.items():
            entrant.trial.set_user_attr(name, value)
        self.optuna_study.tell(entrant.trial, record.metrics["val_top1"])
        if self.winner is None or record.order() < self.winner.record.order():
            state = trim_rank(stack.lane_state(lane), entrant.config.rank)
            self.winner = Winner(record, entrant.config, state)

    def _fail(self, entrant: _Entrant, reason: str) -> None:
        entrant.record.state, entrant.record.failure = "FAIL", reason
        entrant.trial.set_user_attr("failure", reason)
        self.optuna_study.tell(entrant.trial, state=TrialState.FAIL)

    def _fail_running(self, entrants: list[_Entrant], reason: str) -> None:
        """Fail what is still running; our own record is kept even where the storage is what broke."""
        for entrant in entrants:
            if entrant.record.state == "RUNNING":
                with contextlib.suppress(optuna.exceptions.OptunaError, OSError):
                    self._fail(entrant, f"{reason} after epoch {entrant.record.epochs}")

    def _restart(self, entrants: list[_Entrant], n_parallel: int) -> None:
        """Put those still running back to their first step; one that diverged would diverge again, and stays failed."""
        for entrant in entrants:
            if entrant.record.state == "RUNNING":
                self.log.restart(entrant.record)
        self.reporter.message(
            f"{len(entrants)} lanes of batch size {self.study.batch_size} do not fit in the memory of {self.device}; "
            f"their trials start again, {n_parallel} at a time"
        )

    def _free_memory(self) -> None:
        """Give back what a stack held, lest the next one find its memory taken."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
