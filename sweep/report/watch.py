"""Show the present state of a run from what it has written; the run may be going on in another process."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sweep.errors import SweepError
from sweep.machine.checked_files import RESTORE, read_json, require_entries
from sweep.records.folder import RunFolder
from sweep.records.results import recorded_objectives
from sweep.records.worker_log import read_worker_log
from sweep.search.optuna_storage import load_optuna_study
from sweep.search.own_attributes import DUPLICATE, LANE, OwnAttributes
from sweep.study.folds import lanes_per_trial, recorded_folds
from sweep.study.objectives import Objectives
from sweep.tasks.kinds import recorded_kind

CONFIG_ENTRIES = {
    **dict.fromkeys(("study", "data"), str),
    **dict.fromkeys(("trials", "epochs", "seeds"), int),
    "n_parallel": int | str,
}
WORDS = {
    TrialState.RUNNING: "training",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
IN_TRAINING = ("training", "refilled")
SILENCE_OF_A_STOPPED_RUN = 10.0
"""If a run has written nothing for this many seconds, it is checked whether a process still works on it."""


@dataclass(frozen=True)
class WatchedTrial:
    """One trial.

    Attributes:
        number: Optuna's number of the trial.
        lane: The lane of its first replicate; None while it waits for one.
        state: `training`, or `refilled` if it trains in a lane that another trial has left; `complete`, `pruned` or
            `failed`.
        epoch: The last epoch after which it was measured; None if the storage does not say, which happens with several
            objectives.
        values: The values of the first objective, by epoch, as far as they are known.
        params: The parameters of the trial.
        why: Why the trial ended early; empty if it did not.
        worker: The worker that trains it; None if the run has no workers, or none has the trial now.
    """

    number: int
    lane: int | None
    state: str
    epoch: int | None
    values: list[float]
    params: dict[str, Any]
    why: str
    worker: int | None = None

    @property
    def in_training(self) -> bool:
        """Whether the trial has not ended."""
        return self.state in IN_TRAINING


@dataclass(frozen=True)
class RunView:
    """A run at one moment.

    Attributes:
        title: The study and the data.
        objective: Name of the first objective.
        trials: The trials in training, grouped by worker, then those that have ended, the latest first.
        n_trials: The most trials to train, including those that the user has added meanwhile.
        n_epochs: Epochs of a trial.
        counts: Number of trials by state.
        lanes: Lanes that are occupied now.
        n_parallel: Lanes of the stack; None if the run chose the number itself.
        best: The best complete trial, or the best in training if none is complete; None if nothing is measured.
        configs_per_hour: The pace so far; None before the first epoch.
        seconds_left: Time left at this pace; None if there is no pace yet.
        silent_seconds: Seconds since the run last wrote to its journal; None for a storage of another kind.
        ended: Whether the run has ended.
        stopped: Whether the run has not ended, and no process works on it.
    """

    title: str
    objective: str
    trials: list[WatchedTrial]
    n_trials: int
    n_epochs: int
    counts: dict[str, int]
    lanes: int
    n_parallel: int | None
    best: WatchedTrial | None
    configs_per_hour: float | None
    seconds_left: float | None
    silent_seconds: float | None
    ended: bool
    stopped: bool


class Watcher:
    """Reads the state of a run repeatedly.

    Args:
        folder: The run's folder.
        storage_url: The Optuna storage URL that the run was given, if it was given one.

    Raises:
        UsageError: The storage URL is needed and not given, or the storage cannot be opened.
        SweepError: The run's record or its storage is damaged.
    """

    def __init__(self, folder: RunFolder, storage_url: str | None) -> None:
        self.folder = folder
        self.config = read_json(folder.config_path)
        require_entries(folder.config_path, self.config, CONFIG_ENTRIES)
        self.objectives = Objectives(recorded_objectives(folder, self.config), f"val_{recorded_kind(self.config).tie}")
        if self.config["epochs"] < 1:
            raise SweepError(f"{folder.config_path} is damaged: its epochs are {self.config['epochs']}{RESTORE}")
        self.study = load_optuna_study(folder, storage_url, f"sweep watch {folder.path}")
        self.own = OwnAttributes.of(self.study)
        self._where = "the Optuna storage" if storage_url else folder.journal_path
        self._journal = folder.journal_path if storage_url is None else None

    def look(self, *, goes_on: bool = False) -> RunView:
        """Return the present state of the run.

        Args:
            goes_on: Whether the caller knows that a process works on the run.
        """
        ended = self.folder.summary_path.is_file()  # checked first, so that what is read next is final
        told = self.study.get_trials(deepcopy=False)
        frozen = [t for t in told if t.state in WORDS and not self.own.has(t, DUPLICATE)]
        left = {self._lane(t) for t in frozen if t.state.is_finished()}
        trials = {t.number: self._watched(t, left) for t in frozen}
        running = self._on_workers([t for t in trials.values() if t.in_training])
        over = sorted((t for t in frozen if t.state.is_finished()), key=lambda t: t.datetime_complete or datetime.min)
        n_epochs = self.config["epochs"]
        done = len(over) + sum((t.epoch or 0) / n_epochs for t in running)
        rate = self._trials_a_second(frozen, done)
        silent = None if self._journal is None else max(0.0, time.time() - self._journal.stat().st_mtime)
        heard_of = silent is not None and silent < SILENCE_OF_A_STOPPED_RUN
        n_parallel = self.config["n_parallel"]
        n_trials = max(self.config["trials"], len(frozen))
        return RunView(
            title=f"{self.config['study']} on {self.config['data']}",
            objective=self.objectives.first,
            trials=[*running, *(trials[t.number] for t in reversed(over))],
            n_trials=n_trials,
            n_epochs=n_epochs,
            counts=dict(Counter(t.state for t in trials.values())),
            lanes=len(running) * lanes_per_trial(self.config["seeds"], *recorded_folds(self.config)),
            n_parallel=n_parallel if isinstance(n_parallel, int) else None,
            best=self._best(frozen, trials),
            configs_per_hour=None if rate is None else 3600 * rate,
            seconds_left=None if rate is None else max(0.0, (n_trials - done) / rate),
            silent_seconds=silent,
            ended=ended,
            stopped=not (ended or goes_on or heard_of or self.folder.is_worked_on()),
        )

    def _watched(self, trial: FrozenTrial, left: Set[int | None]) -> WatchedTrial:
        """A trial, of a run in which trials have left these lanes."""
        lane = self._lane(trial)
        refilled = trial.state == TrialState.RUNNING and lane is not None and lane in left
        told: Iterable[tuple[int, float]] = trial.intermediate_values.items()
        curve = self.own.get(trial, "curve")
        try:
            if isinstance(curve, dict):  # with several objectives, values are reported at the end
                told = zip(curve["epoch"], curve[self.objectives.first], strict=True)
            values_of = {int(epoch): float(value) for epoch, value in told}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise SweepError(
                f"{self._where} is damaged: the curve of trial {trial.number}: {error}{RESTORE}"
            ) from error
        why = str(self.own.get(trial, "failure") or self.own.get(trial, "stopped") or "")
        state = "refilled" if refilled else WORDS[trial.state]
        epoch, values = max(values_of, default=None), [values_of[epoch] for epoch in sorted(values_of)]
        return WatchedTrial(trial.number, lane, state, epoch, values, trial.params, why)

    def _on_workers(self, running: list[WatchedTrial]) -> list[WatchedTrial]:
        """Trials in training with their workers, if there are any: those of the first one first."""
        if (log := read_worker_log(self.folder)) is None:
            return running
        worker_of = {trial: worker for worker, trials in log.trials.items() for trial in trials}
        placed = [replace(trial, worker=worker_of.get(trial.number)) for trial in running]
        return sorted(placed, key=lambda trial: (trial.worker is None, trial.worker))

    def _lane(self, trial: FrozenTrial) -> int | None:
        lane = self.own.get(trial, LANE)
        return lane if isinstance(lane, int) else None

    def _best(self, frozen: Iterable[FrozenTrial], trials: Mapping[int, WatchedTrial]) -> WatchedTrial | None:
        measured = [t for t in frozen if trials[t.number].values]
        complete = [t for t in measured if t.state == TrialState.COMPLETE]
        if complete:
            return trials[min(complete, key=self._rank).number]
        sign = -1 if self.objectives.directions[self.objectives.first] == "maximize" else 1
        running = [trials[t.number] for t in measured if trials[t.number].in_training]
        return min(running, key=lambda t: (sign * t.values[-1], t.number), default=None)

    def _rank(self, trial: FrozenTrial) -> tuple[float, ...]:
        """What complete trials are sorted by, the best first, so that the first one is that of `rank_trials`."""
        infeasible = any(value > 0 for value in trial.constraints.values())
        costs = self.objectives.costs(dict(zip(self.objectives.names, trial.values, strict=True)))
        tie = self.own.get(trial, self.objectives.tie)
        return (infeasible, *costs, tie if isinstance(tie, float) else math.inf, trial.number)

    def _trials_a_second(self, trials: list[FrozenTrial], done: float) -> float | None:
        """Return the pace from the start of the first trial to the last sign of the run."""
        started = [t.datetime_start for t in trials if t.datetime_start is not None]
        if not started or not done:
            return None
        if all(t.state.is_finished() for t in trials):
            until = max(t.datetime_complete for t in trials if t.datetime_complete is not None)
        elif self._journal is not None:
            until = datetime.fromtimestamp(self._journal.stat().st_mtime)
        else:
            until = datetime.now()
        elapsed = (until - min(started)).total_seconds()
        return done / elapsed if elapsed > 0 else None
