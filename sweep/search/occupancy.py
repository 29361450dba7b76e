"""Which trial trains in which lanes, and the stacks that train them: one stack per shape."""

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
    """The lanes of a search, in one stack per shape. The stacks take turns: each trains one epoch at a time.

    Args:
        study: The study to search.
        setting_of: Gives the data and the side-network structure for a shape.
        n_parallel: Largest number of lanes to train at a time, in all stacks together.
        device: Device that they train on.

    Attributes:
        stacks: The stacks that have a trial, in the order in which they began.
        waiting: Trials that were proposed and have no lanes yet.
        free_slots: Numbers of the lanes without a trial.
        order: Number of the data order that all stacks followed last.
        most_trials: For each shape whose stack ran out of memory, the number of trials that it may have from then on.
        training_seconds: Wall time of training and evaluation.
        lane_seconds: Lanes with a trial times the seconds that they trained, or waited while another stack trained.
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
        """Trials in training, in the order of their stacks."""
        return [entrant for stack in self.stacks.values() for entrant in stack.running]

    @property
    def entrants(self) -> list[Entrant]:
        """Trials that have not ended: in training, or waiting for lanes."""
        return [*self.running, *self.waiting]

    @property
    def has_room(self) -> bool:
        """Whether enough lanes are free for another trial."""
        return len(self.free_slots) >= self.study.seeds

    @property
    def occupied_share(self) -> float:
        """Share of all lanes that had a trial, averaged over the time of training."""
        return self.lane_seconds / (self.training_seconds * self.n_parallel) if self.training_seconds else 0.0

    def shape(self, config: LaneConfig) -> Shape:
        """The shape of a lane."""
        return shape_of(self.study, config)

    def n_running(self, shape: Shape) -> int:
        """Number of trials of a shape in training."""
        return len(self.stacks[shape].running) if shape in self.stacks else 0

    def fits(self, shape: Shape) -> bool:
        """Whether another trial of a shape fits in memory, as far as is known."""
        most = self.most_trials.get(shape)
        return most is None or self.n_running(shape) < most

    def setting(self, config: LaneConfig) -> StackSetting:
        """The data and side-network structure that a lane trains with."""
        return self.setting_of(self.shape(config))

    def admit(self, entrant: Entrant) -> None:
        """Give free lanes to a trial, which trains from the next epoch on."""
        n_lanes, config = self.study.seeds, entrant.proposal.config
        stack = self.stack_for(config)
        stack.update_lanes(take_apart=True)
        self._freed = True
        stack.running.append(entrant)
        entrant.slots, self.free_slots = self.free_slots[:n_lanes], self.free_slots[n_lanes:]
        entrant.record.first_order = self.order + 1
        entrant.lanes = [stack.new_lane(config, seed) for seed in entrant.record.seeds]

    def stack_for(self, config: LaneConfig) -> LaneStack:
        """The stack of a lane's shape. If there is none, make one."""
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
            Every stack with the result of its epoch, or with the error that says that memory ran out.
        """
        self.order += 1
        for stack in list(self.stacks.values()):
            result = self._epoch_of(stack, reporter)
            if isinstance(result, EpochResult):
                self.training_seconds += result.wall_seconds
                self.lane_seconds += result.wall_seconds * self._lanes_in_use
            yield stack, result

    def _epoch_of(self, stack: LaneStack, reporter: Reporter) -> EpochResult | RuntimeError | MemoryError:
        """The result of a stack's epoch, or an out-of-memory error without its traceback, which holds the stack."""
        try:
            return stack.train_epoch(self.order, reporter)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)

    @property
    def _lanes_in_use(self) -> int:
        """Number of lanes that have a trial, including those that wait while another stack trains."""
        return self.n_parallel - len(self.free_slots)

    def update_lanes(self) -> None:
        """Copy the weights of all stacks back into their lanes."""
        for stack in self.stacks.values():
            stack.update_lanes()

    def take_apart(self, ending: Collection[int]) -> None:
        """Take the stacks of some trials apart. Their lanes then have the current weights and may be freed.

        Args:
            ending: Numbers of the trials that end.
        """
        for stack in self.stacks.values():
            if any(entrant.record.trial in ending for entrant in stack.running):
                stack.update_lanes(take_apart=True)
                self._freed = True

    def leave(self) -> None:
        """Free the lanes of trials that have ended, and drop empty stacks. `take_apart` must be called first."""
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
        """After memory ran out, halve the size of a stack. Its trials wait to start again.

        Returns:
            A message that tells the user what was done.

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
        """Release the memory of dropped stacks before the next stack needs it."""
        if not self._freed:
            return
        self._freed = False
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
