"""The search: Optuna proposes configurations, a stack trains them together, the results are told back."""

import contextlib
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
    """A trial on its way through a lane."""

    trial: optuna.Trial
    config: LaneConfig
    record: TrialRecord


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

        Raises:
            UsageError: The study proposes what cannot be trained.
            SweepError: A stack does not fit in memory.
            KeyboardInterrupt: The user stopped the run; its running trials were told as failed and saved.
        """
        self.optuna_study.enqueue_trial(dict(self.study.baseline))
        remaining = self.study.trials
        while remaining:
            entrants: list[_Entrant] = []
            try:
                for _ in range(min(n_parallel, remaining)):
                    entrants.append(self._ask())
                self._train(entrants)
            except BaseException as error:
                self._fail_running(entrants, "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped")
                if _is_out_of_memory(error):
                    raise SweepError(
                        f"{len(entrants)} lanes of batch size {self.study.batch_size} do not fit in the memory of "
                        f"{self.device}; lower --n-parallel or --batch-size"
                    ) from error
                raise
            finally:
                self.reporter.stack_ended()
                if self.log.records:
                    self.save(self)
            remaining -= len(entrants)
            self._n_stacks += 1

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
            elif reported:
                entrant.trial.report(metrics["val_top1"], result.epoch)
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


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host ran out; PyTorch's allocator of the host raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
