"""A worker: it has lanes in stacks of every shape, and trains an epoch of all of them when it is told to.

This module knows nothing of processes. `process.py` runs a worker in a process of its own.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sweep.features.copying import EntryIndex, EntryReceiver
from sweep.features.resident import DeviceRoom, room_on
from sweep.features.training_data import in_room
from sweep.machine.memory import is_out_of_memory
from sweep.side_networks.own_networks import take_network
from sweep.study.shape import Shape
from sweep.tasks.own_losses import take_losses
from sweep.training.lane_stack import LaneStack, StackSetting, TrialEpoch
from sweep.training.lane_state import LaneState
from sweep.workers.feature_ranges import Computed, FeaturePass
from sweep.workers.measured import Measured, measured
from sweep.workers.messages import Assignment, Step, StepResult, UsersCode


class LaneWorker:
    """Trains the lanes that it is given.

    Args:
        device: Device that they train on.
        cache_dir: Root of the cache of this machine, if the worker does not see the cache folder of the run.
    """

    def __init__(self, device: torch.device, cache_dir: Path | None = None):
        self.device, self.cache_dir = device, cache_dir
        self._receiver = EntryReceiver(cache_dir) if cache_dir else None
        self._settings: dict[Shape, StackSetting] = {}
        self._stacks: defaultdict[Shape, list[LaneStack]] = defaultdict(list)
        self._most_lanes: dict[Shape, int] = {}
        self._generation = 0
        self._room: DeviceRoom | None = None
        self._pass: FeaturePass | None = None

    def measure(self) -> Measured:
        """Measure what this worker has; it is asked once, before it gets lanes."""
        return measured(self.device)

    def take_room(self, resident_bytes: int) -> None:
        """Take the memory of a GPU that the features of all shapes may take together."""
        self._room = room_on(self.device, resident_bytes)

    def take_setting(self, shape: Shape, setting: StackSetting, code: UsersCode) -> None:
        """Take what lanes of a shape train with.

        Args:
            shape: The shape.
            setting: Its data and side-network structure.
            code: What lanes need of the study's file.
        """
        take_losses(code.losses)
        for family, network in code.networks.items():
            take_network(family, network)
        train, val = in_room(setting.train_data, setting.val_data, self._room)
        self._settings[shape] = replace(setting, train_data=train, val_data=val)

    def begin_entry(self, index: EntryIndex) -> int | None:
        """See `EntryReceiver.begin`."""
        assert self._receiver is not None
        return self._receiver.begin(index)

    def take_features(self, offset: int, content: bytes) -> None:
        """See `EntryReceiver.take`."""
        assert self._receiver is not None
        self._receiver.take(offset, content)

    def take_pass(self, feature_pass: FeaturePass) -> None:
        """Take what features are computed with.

        Raises:
            SweepError: This process does not see the same images.
        """
        feature_pass.check()
        if isinstance(feature_pass.backbone, torch.nn.Module):
            feature_pass.backbone.to(self.device)
        self._pass = feature_pass

    def compute_features(self, batches: Sequence[range]) -> Computed:
        """Compute the features of batches, and write them to the run's cache or send them with the answer.

        Raises:
            SweepError: An image cannot be decoded, or a feature is not a finite float16.
        """
        assert self._pass is not None
        return self._pass.compute(batches, self.device, sees_cache=self.cache_dir is None)

    def drop_pass(self) -> None:
        """Forget what features are computed with."""
        self._pass = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def step(self, step: Step) -> StepResult:
        """Train all trials for one epoch, unless they have trained it. Those that do not fit in memory are dropped."""
        started = time.perf_counter()
        self._remove(step.drop)
        self._most_lanes |= step.most_lanes
        begins, self._generation = step.generation != self._generation, step.generation
        on_time = [one for one in step.admit if begins and one.next_order == step.order]
        for assignment in on_time:
            self._add(assignment.shape, assignment.trial, assignment.lanes)
        results: dict[int, TrialEpoch] = {}
        lost: dict[int, Shape] = {}
        if begins:
            for shape, stack in [(shape, stack) for shape, stacks in self._stacks.items() for stack in stacks]:
                lost |= dict.fromkeys(self._train(shape, stack, [step.order], results), shape)
        behind = [one for one in step.admit if one.next_order <= step.order and one not in on_time]
        for shape, group in self._groups(behind):
            stack = self._new_stack(shape)
            for assignment in group:
                stack.add(assignment.trial, assignment.lanes)
            missed = range(group[0].next_order, step.order + 1)
            now_lost = self._train(shape, stack, missed, results)
            lost |= dict.fromkeys(now_lost, shape)
            if not now_lost:
                for trial, lanes in stack.states(list(stack.lanes)).items():
                    self._add(shape, trial, lanes)
        for assignment in step.admit:
            if assignment.next_order > step.order:  # it has trained this epoch on a worker that is lost
                self._add(assignment.shape, assignment.trial, assignment.lanes)
        most_lanes = {shape: self._most_lanes[shape] for shape in lost.values()}
        return StepResult(results, time.perf_counter() - started, list(lost), most_lanes)

    def states(self, trials: Collection[int]) -> dict[int, list[LaneState]]:
        """The current states of trials' lanes, by number of the trial."""
        found: dict[int, list[LaneState]] = {}
        for stack in self._all_stacks():
            if wanted := stack.lanes.keys() & set(trials):
                found |= stack.states(wanted)
        return found

    def _train(
        self, shape: Shape, stack: LaneStack, orders: Sequence[int], results: dict[int, TrialEpoch]
    ) -> list[int]:
        """Train a stack along some data orders; the last one's results are kept.

        Returns:
            The trials that are lost because memory ran out.
        """
        try:
            for order in orders:
                trained = stack.train_epoch(order)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            lost = list(stack.lanes)
            n_replicates = len(stack.lanes[lost[0]])
        else:
            results |= trained.trials
            return []
        half = -(-len(lost) // 2) * n_replicates if len(lost) > 1 else 0
        self._most_lanes[shape] = min(half, self._most_lanes.get(shape, half))
        self._remove(lost)
        stack.remove(lost)
        gc.collect()
        return lost

    def _groups(self, behind: Sequence[Assignment]) -> Iterator[tuple[Shape, list[Assignment]]]:
        """Trials that are equally far behind, by shape, as many together as fit in memory."""
        groups: defaultdict[tuple[Shape, int], list[Assignment]] = defaultdict(list)
        for assignment in behind:
            groups[assignment.shape, assignment.next_order].append(assignment)
        for (shape, _), group in groups.items():
            first = 0
            while first < len(group):
                until = first + (self._most(shape, len(group[first].lanes)) or len(group))
                yield shape, group[first:until]
                first = until

    def _add(self, shape: Shape, trial: int, lanes: Sequence[LaneState]) -> None:
        """Put a trial into a stack that has room, or into a new one."""
        most = self._most(shape, len(lanes))
        stacks = self._stacks[shape]
        stack = next((stack for stack in stacks if most is None or len(stack.lanes) < most), None)
        if stack is None:
            stack = self._new_stack(shape)
            stacks.append(stack)
        stack.add(trial, lanes)

    def _most(self, shape: Shape, n_replicates: int) -> int | None:
        """The most trials of a shape that train in one stack, if there is a limit."""
        return max(1, self._most_lanes[shape] // n_replicates) if shape in self._most_lanes else None

    def _new_stack(self, shape: Shape) -> LaneStack:
        return LaneStack(self._settings[shape], self.device)

    def _remove(self, trials: Collection[int]) -> None:
        """Drop trials, and stacks that are empty then."""
        for stack in self._all_stacks():
            if gone := stack.lanes.keys() & set(trials):
                stack.remove(gone)
        for shape, stacks in self._stacks.items():
            self._stacks[shape] = [stack for stack in stacks if stack.lanes]
        if trials and self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _all_stacks(self) -> list[LaneStack]:
        return [stack for stacks in self._stacks.values() for stack in stacks]
