"""Lanes that train on workers.

This process decides everything and trains nothing. A worker that dies costs time: its trials go to other workers from
the states that were fetched last, and repeat the epochs since. As a lane's bits depend on its configuration, its seed
and its data orders alone, no result shows it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sweep.errors import SweepError
from sweep.records.reporter import Reporter
from sweep.records.worker_log import WorkerLog
from sweep.search.ledger import Entrant
from sweep.search.trainer import SettingOf, Stacks
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackEpoch, TrialEpoch, does_not_fit
from sweep.training.lane_state import LaneState
from sweep.workers.balance import TrialCost
from sweep.workers.messages import Assignment, Step, WorkerFailure, WorkerLost
from sweep.workers.packing import packed
from sweep.workers.patience import START_SECONDS, Patience
from sweep.workers.placement import Placement
from sweep.workers.pool import WorkerPool
from sweep.workers.settings_sent import SettingsSent
from sweep.workers.shares import Shares

CPU = torch.device("cpu")

MEASURED_SHARED = 2.0
"""What a stack costs beside its lanes, as a multiple of the cost model's answer, measured for stacks of `lr_rank`.

The model is not changed, because it also decides which configurations are proposed together, and so the tables.
"""

MOST_LOSSES = 5
"""Workers that may die one after the other with the same trial before it has trained an epoch."""


class TrainingOnWorkers:
    """A `Trainer` that has lanes trained by the workers of a pool.

    Args:
        setting_of: Gives the data and the side-network structure for a shape, with features where they are stored.
        pool: The workers.
        shares: What each of them can take.
        patience: How long to wait for workers.
        on_message: Told when a worker is lost, and when another one takes part.
        on_epoch: Told after every epoch what the workers do.
        on_shares: Told in one line which lanes each worker has, when workers begin to take part.
    """

    def __init__(
        self,
        setting_of: SettingOf,
        pool: WorkerPool,
        shares: Shares,
        *,
        patience: Patience,
        on_message: Callable[[str], None],
        on_epoch: Callable[[WorkerLog], None] = lambda log: None,
        on_shares: Callable[[str], None] = lambda line: None,
    ):
        self.setting_of, self.pool, self.patience = setting_of, pool, patience
        self.shares, self.on_message, self.on_epoch, self.on_shares = shares, on_message, on_epoch, on_shares
        self._held: dict[int, Assignment] = {}
        self._placement = Placement(shares.most_lanes)
        self._untold = False  # whether workers have shares that were not told
        self._unsent: set[int] = set()
        self._drops: defaultdict[int, list[int]] = defaultdict(list)
        self._settings = SettingsSent(setting_of, pool, self._call, on_message)
        self._generation = self._order = 0
        self._losses: Counter[int] = Counter()
        self._busy_seconds: defaultdict[int, float] = defaultdict(float)
        self._training_seconds = 0.0

    def admit(self, entrant: Entrant, shape: Shape, states: Sequence[LaneState]) -> None:
        """See `Trainer`."""
        setting, trial = self.setting_of(shape), entrant.record.trial
        for state in states:
            if state.weights is not None:
                state.lane(setting.spec, CPU)  # raises here, and not on a worker
        self._held[trial] = Assignment(trial, shape, entrant.record.first_order, tuple(states))
        own, shared = setting.spec.lane_work(setting.tokens), setting.spec.stack_work(setting.tokens)
        self._placement.costs[trial] = TrialCost(shape, len(states) * own, MEASURED_SHARED * shared, len(states))

    def train_epoch(self, stacks: Stacks, order: int, reporter: Reporter) -> Iterator[tuple[Shape, StackEpoch]]:
        """See `Trainer`; a worker whose memory runs out halves its stack by itself."""
        started = time.perf_counter()
        self._welcome()
        if self._generation == 0:
            self._await_others()
        self._place()
        self._move()
        if self._untold:
            self.on_shares(f"lanes: {self.shares.in_words(self._placement.lanes(self.pool.ready))}")
            self._untold = False
        self._generation, self._order = self._generation + 1, order
        trials = [entrant.record.trial for running in stacks.values() for entrant in running]
        n_lanes = sum(len(self._held[trial].lanes) for trial in trials)
        n_epochs = self.setting_of(next(iter(stacks))).n_epochs
        reporter.epoch_started(n_lanes, len(trials) / n_epochs / len(self.pool.ready))
        results = self._trained(trials, reporter.step)
        wall_seconds = time.perf_counter() - started
        self._training_seconds += wall_seconds
        doing = self._placement.by_worker(self.pool.ready)
        self.on_epoch(WorkerLog(self._training_seconds, dict(self._busy_seconds), doing))
        for shape, running in stacks.items():
            of_shape = {entrant.record.trial: results[entrant.record.trial] for entrant in running}
            yield shape, StackEpoch(of_shape, wall_seconds * len(of_shape) / len(trials))

    def weights(self, entrant: Entrant) -> dict[str, Tensor]:
        """See `Trainer`."""
        (state, *_) = self.states([entrant])[entrant.record.trial]
        return dict(state.weights or {})

    def states(self, entrants: Collection[Entrant]) -> dict[int, list[LaneState]]:
        """See `Trainer`; from what is fetched here trials continue when their worker dies."""
        wanted = [entrant.record.trial for entrant in entrants]
        self._fetch(wanted)
        return {trial: list(self._held[trial].lanes) for trial in wanted}

    def leave(self, entrants: Collection[Entrant]) -> None:
        """See `Trainer`."""
        for entrant in entrants:
            trial = entrant.record.trial
            del self._held[trial], self._placement.costs[trial]
            self._unsent.discard(trial)
            if (worker := self._placement.where.pop(trial, None)) is not None:
                self._drops[worker].append(trial)

    def free_memory(self) -> None:
        """See `Trainer`; workers do so by themselves."""

    def close(self) -> None:
        """End the workers."""
        self.pool.close()

    def _trained(self, trials: Collection[int], on_answer: Callable[[], None] = lambda: None) -> dict[int, TrialEpoch]:
        """Have trials trained up to the present data order, on whichever workers it takes.

        Returns:
            The results of their last epoch.
        """
        results: dict[int, TrialEpoch] = {}
        while missing := [trial for trial in trials if trial not in results]:
            self._welcome()
            self._place()
            needed = {(self._placement.where[trial], self._held[trial].shape) for trial in self._unsent}
            shapes = [assignment.shape for assignment in self._held.values()]
            if not self._settings.send(needed, shapes, self.patience.epoch_seconds):
                continue
            on_worker = self._placement.by_worker({self._placement.where[trial] for trial in missing})
            steps = {worker: self._step(worker, placed) for worker, placed in on_worker.items()}
            n_epochs = max(step.n_epochs for step in steps.values())
            calls = {worker: packed(("step", (step,))) for worker, step in steps.items()}
            for worker, result in self._call(calls, n_epochs * self.patience.epoch_seconds):
                self.patience.learn(result.wall_seconds, steps[worker].n_epochs)
                self._busy_seconds[worker] += result.wall_seconds
                if steps[worker].n_epochs == 1:
                    self._placement.trained(worker, list(result.trials), result.wall_seconds)
                self._unsent -= {assignment.trial for assignment in steps[worker].admit}
                results |= result.trials
                if result.out_of_memory:
                    self._forget(result.out_of_memory)
                    self.shares.limit(worker, result.most_lanes)
                    self._untold = True
                    self.on_message(_out_of_memory(worker, result.most_lanes))
                on_answer()
        self._losses.clear()
        return results

    def _place(self) -> None:
        """Give a worker to every trial that is on none. If none has room, wait for those that are being started.

        Raises:
            SweepError: One trial alone does not fit on any worker.
        """
        while (one := self._without_room()) is not None:
            new = self.pool.welcome(self.patience.timeout_seconds) if self.pool.n_starting else []
            if not new:
                raise does_not_fit(len(one.lanes), one.shape.batch_size, "any worker")
            for worker in new:
                self.on_message(f"worker {worker} takes part")
            self._measure_new()
        self._unsent |= set(self._placement.place(self.pool.ready))

    def _without_room(self) -> Assignment | None:
        """A trial without a worker for which no worker has room, not even alone."""
        new = {one.shape: one for trial, one in self._held.items() if trial not in self._placement.where}
        lacking = (one for shape, one in new.items() if not self.shares.have_room(self.pool.ready, shape))
        return next(lacking, None)

    def _step(self, worker: int, placed: Sequence[int]) -> Step:
        admitted = [self._held[trial] for trial in placed if trial in self._unsent]
        most_lanes = {shape: self.shares.most_lanes(worker, shape) for shape in {one.shape for one in admitted}}
        return Step(self._generation, self._order, tuple(self._drops.pop(worker, ())), tuple(admitted), most_lanes)

    def _call(self, calls: Mapping[int, bytes], expected_seconds: float) -> Iterator[tuple[int, Any]]:
        """Call workers. One that is lost gives no answer, and its trials are on no worker any more.

        Args:
            calls: Packed calls by worker.
            expected_seconds: Time that they should take.

        Raises:
            SweepError: A worker says that the user has to change something; or workers die again and again.
            RuntimeError: Something else went wrong on a worker.
        """
        for worker, answer in self.pool.call(calls, self.patience.beyond(expected_seconds)):
            if isinstance(answer, WorkerLost):
                self._lose(worker, answer.reason)
            elif isinstance(answer, WorkerFailure):
                raise answer.error or RuntimeError(f"worker {worker} failed:\n{answer.text}")
            else:
                yield worker, answer

    def _lose(self, worker: int, reason: str) -> None:
        trials = self._placement.on(worker)
        go_on = f"; {len(trials)} trials in training continue on other workers" if trials else ""
        self.on_message(f"worker {worker} {reason}{go_on}")
        self.shares.leave(worker)
        self._placement.first_speeds = self.shares.speeds
        self._drops.pop(worker, None)
        self._losses.update(trials)
        self._forget(trials)
        unlucky = [trial for trial in trials if self._losses[trial] >= MOST_LOSSES]
        if unlucky:
            raise SweepError(
                f"{MOST_LOSSES} workers were lost one after the other while they trained trial {unlucky[0]}. If the "
                f"system ended them because memory ran out, lower --n-parallel or --workers; then continue with sweep "
                f"resume"
            )

    def _forget(self, trials: Iterable[int]) -> None:
        """Trials are on no worker any more."""
        for trial in trials:
            self._placement.where.pop(trial, None)
            self._unsent.discard(trial)

    def _fetch(self, trials: Collection[int]) -> None:
        """Fetch the states of trials that have trained since. If a worker dies meanwhile, they are trained again."""
        while missing := [trial for trial in trials if self._held[trial].next_order <= self._order]:
            # A lost trial may have got a worker since, which does not have it before the next step.
            if lost := [trial for trial in missing if trial not in self._placement.where or trial in self._unsent]:
                self._trained(lost)
            wanted: defaultdict[int, list[int]] = defaultdict(list)
            for trial in missing:
                wanted[self._placement.where[trial]].append(trial)
            calls = {worker: packed(("states", (of,))) for worker, of in wanted.items()}
            for _, states in self._call(calls, self.patience.epoch_seconds):
                for trial, lanes in states.items():
                    self._held[trial] = replace(self._held[trial], lanes=tuple(lanes))

    def _move(self) -> None:
        """Divide trials anew among workers between two epochs, if that is faster."""
        moves = self._placement.moves(self.pool.ready, self._unsent)
        self._fetch([trial for trial in moves if trial not in self._unsent])
        for trial, worker in moves.items():
            if worker not in self.pool.ready:  # it was lost meanwhile
                continue
            if (source := self._placement.where.get(trial)) is not None and trial not in self._unsent:
                self._drops[source].append(trial)
            self._placement.where[trial] = worker
            self._unsent.add(trial)

    def _welcome(self) -> None:
        """Let workers take part that have been started; wait for one if there is no other.

        Raises:
            SweepError: There was none in time.
        """
        for worker in set(self._placement.where.values()) - set(self.pool.ready):
            self._lose(worker, "has died")  # while it did something else
        seconds = self.patience.timeout_seconds
        if not self.pool.ready and self._generation:
            self.on_message(f"no worker is left; waiting for one for up to {seconds:g} s")
        for _ in range(MOST_LOSSES):
            for worker in self.pool.welcome(0.0 if self.pool.ready else seconds):
                if self._generation:
                    self.on_message(f"worker {worker} takes part")
            if not self.pool.ready:
                raise SweepError(
                    f"no worker was ready within {seconds:g} s, which --worker-timeout sets; {self.pool.n_starting} "
                    f"have been started. Once there are workers again, continue with sweep resume; or without workers, "
                    f"with sweep resume RUN --workers 0"
                )
            self._measure_new()
            if self.pool.ready:
                return
        raise SweepError(
            f"{MOST_LOSSES} times in a row, all workers were lost before they had any lanes. Continue with sweep "
            f"resume, or without workers with sweep resume RUN --workers 0"
        )

    def _measure_new(self) -> None:
        """Have new workers measure what they have, all at the same time."""
        if new := self.shares.unmeasured(self.pool.ready):
            shapes = {assignment.shape for assignment in self._held.values()}
            self._untold |= bool(self.shares.measure(new, self._call, shapes))
            self._placement.first_speeds = self.shares.speeds

    def _await_others(self) -> None:
        """Wait for the workers that were started with the first one, but not for long."""
        deadline = time.monotonic() + min(START_SECONDS, self.patience.timeout_seconds)
        while self.pool.n_starting and (left := deadline - time.monotonic()) > 0:
            self.pool.welcome(left)
        if self.shares.unmeasured(self.pool.ready):
            self._welcome()
        if self.pool.n_starting:
            n_all = len(self.pool.ready) + self.pool.n_starting
            self.on_message(f"{len(self.pool.ready)} of {n_all} workers take part; others do so once they are ready")


def _out_of_memory(worker: int, most_lanes: Mapping[Shape, int]) -> str:
    """What a worker does whose memory has run out, in one line."""
    does = []
    if any(most_lanes.values()):
        does.append("it trains half as many lanes at a time")
    if sizes := {shape.batch_size for shape, most in most_lanes.items() if not most}:
        batches = " or ".join(map(str, sorted(sizes)))
        does.append(f"one trial of batch size {batches} does not fit there alone, so it gets no more of that shape")
    return f"worker {worker} ran out of memory; {', and '.join(does)}; workers with room take the others"
