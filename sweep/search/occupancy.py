"""Which trial trains in which lanes, and the stacks that train them: one for every shape."""

import gc
from collections.abc import Collection, Iterator

import torch

from sweep.errors import SweepError
from sweep.machine.memory import is_out_of_memory
from sweep.records.reporter import Reporter
from sweep.search.lane_stack import LaneStack, SettingOf, StackSetting
from sweep.search.ledger import Entrant
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import Shape, shape_of
from sweep.training.engine import EpochResult, Lane


class Occupancy:
    """The lanes of a search, in stacks of one shape each, which take turns by epoch.

    Args:
        study: What is searched.
        setting_of: Gives what the lanes of a shape train on and with.
        n_parallel: Lanes to train at a time, at most, in all stacks together.
        device: Where they train.

    Attributes:
        stacks: Those that have a trial, in the order in which they began.
        waiting: Trials that were asked for, and have no lanes.
        free_slots: Numbers of the lanes that nobody trains in.
        order: The data order that all stacks followed last.
        most_trials: By shape, trials that fit in memory together, where memory ran out.
        training_seconds: Wall time inside training and evaluation.
        lane_seconds: The same, of all lanes that had a trial while their stack trained.
    """

    def __init__(self, study: Study, setting_of: SettingOf, *, n_parallel: int, device: torch.device):
        self.study = study
        self.setting_of = setting_of
        self.n_parallel = n_parallel
        self.device = device
        self.stacks: dict[Shape, LaneStack] = {}
        self.waiting: list[Entrant] = []
        self.free_slots = list(range(n_parallel))
        self.order = 0
        self.most_trials: dict[Shape, int] = {}
        self.training_seconds = self.lane_seconds = 0.0
        self._freed = False

    @property
    def running(self) -> list[Entrant]:
        """Trials in training, stack after stack."""
        return [entrant for stack in self.stacks.values() for entrant in stack.running]

    @property
    def entrants(self) -> list[Entrant]:
        """Trials that have not ended: in training, or waiting for lanes."""
        return [*self.running, *self.waiting]

    @property
    def has_room(self) -> bool:
        """Whether another trial's lanes are free."""
        return len(self.free_slots) >= self.study.seeds

    @property
    def occupied_share(self) -> float:
        """Of the lanes over the time of training, those that had a trial."""
        return self.lane_seconds / (self.training_seconds * self.n_parallel) if self.training_seconds else 0.0

    def shape(self, config: LaneConfig) -> Shape:
        """The shape of a lane."""
        return shape_of(self.study, config)

    def n_running(self, shape: Shape) -> int:
        """Trials of a shape in training."""
        return len(self.stacks[shape].running) if shape in self.stacks else 0

    def fits(self, shape: Shape) -> bool:
        """Whether memory allows another trial of a shape, as far as is known."""
        most = self.most_trials.get(shape)
        return most is None or self.n_running(shape) < most

    def setting(self, config: LaneConfig) -> StackSetting:
        """What a lane trains on and with."""
        return self.setting_of(self.shape(config))

    def admit(self, entrant: Entrant) -> None:
        """Give a trial lanes that are free; it trains from the next epoch on."""
        n_lanes, config = self.study.seeds, entrant.proposal.config
        stack = self.stack_for(config)
        stack.update_lanes(take_apart=True)
        self._freed = True
        stack.running.append(entrant)
        entrant.slots, self.free_slots = self.free_slots[:n_lanes], self.free_slots[n_lanes:]
        entrant.record.first_order = self.order + 1
        entrant.lanes = [stack.new_lane(config, seed) for seed in entrant.record.seeds]

    def stack_for(self, config: LaneConfig) -> LaneStack:
        """The stack that a lane belongs in; a new one where there is none of its shape."""
        shape = self.shape(config)
        if shape not in self.stacks:
            self.stacks[shape] = LaneStack(shape, self.setting_of(shape), self.device)
        return self.stacks[shape]

    def new_lane(self, config: LaneConfig, seed: int) -> Lane:
        """A lane that has not trained yet."""
        return self.stack_for(config).new_lane(config, seed)

    def train_epoch(self, reporter: Reporter) -> Iterator[tuple[LaneStack, EpochResult | RuntimeError | MemoryError]]:
        """Train all stacks for one epoch, one after the other.

        Yields:
            Every stack with what came of its epoch: its result, or the error that says that memory ran out.
        """
        self.order += 1
        for stack in list(self.stacks.values()):
            result = self._epoch_of(stack, reporter)
            if isinstance(result, EpochResult):
                self.training_seconds += result.wall_seconds
                self.lane_seconds += result.wall_seconds * self._lanes_in_use
            yield stack, result

    def _epoch_of(self, stack: LaneStack, reporter: Reporter) -> EpochResult | RuntimeError | MemoryError:
        """What came of a stack's epoch; an error without its frames, which hold the stack."""
        try:
            return stack.train_epoch(self.order, reporter)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)

    @property
    def _lanes_in_use(self) -> int:
        """Lanes that have a trial; while one stack trains, the others' lanes wait for their turn."""
        return self.n_parallel - len(self.free_slots)

    def update_lanes(self) -> None:
        """Bring the lanes of running trials up to date with their stacks."""
        for stack in self.stacks.values():
            stack.update_lanes()

    def take_apart(self, ending: Collection[int]) -> None:
        """Take the stacks of some trials apart, by number: their lanes are up to date and may be freed.

        Args:
            ending: Numbers of trials.
        """
        for stack in self.stacks.values():
            if any(entrant.record.trial in ending for entrant in stack.running):
                stack.update_lanes(take_apart=True)
                self._freed = True

    def leave(self) -> None:
        """Free the lanes of trials that have ended, whose stacks were taken apart; a stack that empties is dropped."""
        for stack in self.stacks.values():
            if all(entrant.alive for entrant in stack.running):
                continue
            freed = [slot for entrant in stack.running if not entrant.alive for slot in entrant.slots]
            self.free_slots = sorted([*self.free_slots, *freed])
            stack.running = [entrant for entrant in stack.running if entrant.alive]
        self._drop_empty()
        self.waiting = [entrant for entrant in self.waiting if entrant.alive]

    def _drop_empty(self) -> None:
        self.stacks = {shape: stack for shape, stack in self.stacks.items() if stack.running}

    def halve(self, stack: LaneStack, error: BaseException) -> str:
        """Go on with half the lanes of a stack after memory ran out; its trials wait to start again.

        Returns:
            What was done, for the user.

        Raises:
            SweepError: Not even one trial fits.
        """
        study = stack.setting.study
        n_lanes, size = study.seeds * len(stack.running), study.batch_size
        if len(stack.running) <= 1:
            raise SweepError(
                f"one trial ({study.seeds} lane{'s' * (study.seeds > 1)} of batch size {size}) does not "
                f"fit in the memory of {self.device}; lower --batch-size or the ranks"
            ) from error
        slots = [slot for entrant in stack.running for slot in entrant.slots]
        self.most_trials[stack.shape] = most = -(-len(stack.running) // 2)
        self.waiting = [*stack.clear(), *self.waiting]
        self._freed = True
        self.free_slots = sorted([*self.free_slots, *slots])
        self._drop_empty()
        return (
            f"{n_lanes} lanes of batch size {size} do not fit in the memory of {self.device}; "
            f"their trials start again, {study.seeds * most} at a time"
        )

    def free_memory(self) -> None:
        """Give back what stacks held that are gone, so that the next one finds its memory free."""
        if not self._freed:
            return
        self._freed = False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
