"""Which trial trains in which lanes, sorted by shape; who trains them is a `Trainer`."""

from collections.abc import Iterator, Sequence

import torch

from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.search.trainer import SettingOf, Trainer
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import Shape, shape_of
from sweep.training.lane_stack import StackEpoch, StackSetting, does_not_fit
from sweep.training.lane_state import LaneState


class Occupancy:
    """The lanes of a search.

    Args:
        study: The study to search.
        setting_of: Gives the data and the side-network structure for a shape.
        trainer: Trains the lanes.
        n_parallel: Largest number of lanes to train at a time, in all stacks together.
        device: Device that they train on.

    Attributes:
        stacks: The trials in training by shape, in the order in which the shapes got their first trial.
        waiting: Trials that were proposed and have no lanes yet.
        free_slots: Numbers of the lanes without a trial.
        order: Number of the data order that all stacks followed last.
        most_trials: For each shape whose stack ran out of memory, the number of trials that it may have from then on.
        training_seconds: Wall time of training and evaluation.
        lane_seconds: Lanes with a trial times the seconds that they trained, or waited while another stack trained.
    """

    def __init__(self, study: Study, setting_of: SettingOf, trainer: Trainer, *, n_parallel: int, device: torch.device):
        self.study = study
        self.setting_of = setting_of
        self.trainer = trainer
        self.n_parallel = n_parallel
        self.device = device
        self.stacks: dict[Shape, list[Entrant]] = {}
        self.waiting: list[Entrant] = []
        self.free_slots = list(range(n_parallel))
        self.order = 0
        self.most_trials: dict[Shape, int] = {}
        self.training_seconds = self.lane_seconds = 0.0

    @property
    def running(self) -> list[Entrant]:
        """Trials in training, in the order of their stacks."""
        return [entrant for running in self.stacks.values() for entrant in running]

    @property
    def entrants(self) -> list[Entrant]:
        """Trials that have not ended: in training, or waiting for lanes."""
        return [*self.running, *self.waiting]

    @property
    def has_room(self) -> bool:
        """Whether enough lanes are free for another trial."""
        return len(self.free_slots) >= self.study.lanes_per_trial

    @property
    def occupied_share(self) -> float:
        """Share of all lanes that had a trial, averaged over the time of training."""
        return self.lane_seconds / (self.training_seconds * self.n_parallel) if self.training_seconds else 0.0

    def shape(self, config: LaneConfig) -> Shape:
        """The shape of a lane."""
        return shape_of(self.study, config)

    def n_running(self, shape: Shape) -> int:
        """Number of trials of a shape in training."""
        return len(self.stacks.get(shape, ()))

    def fits(self, shape: Shape) -> bool:
        """Whether another trial of a shape fits in memory, as far as is known."""
        most = self.most_trials.get(shape)
        return most is None or self.n_running(shape) < most

    def setting(self, config: LaneConfig) -> StackSetting:
        """The data and side-network structure that a lane trains with."""
        return self.setting_of(self.shape(config))

    def admit(self, entrant: Entrant) -> None:
        """Give free lanes to a trial, which trains from the next epoch on."""
        n_lanes = self.study.lanes_per_trial
        entrant.slots, self.free_slots = self.free_slots[:n_lanes], self.free_slots[n_lanes:]
        entrant.record.first_order = self.order + 1
        config, fold_of = entrant.proposal.config, self.study.fold_of
        states = [LaneState(config, seed, fold=fold_of(i)) for i, seed in enumerate(entrant.record.seeds)]
        self.take_up(entrant, states)

    def take_up(self, entrant: Entrant, states: Sequence[LaneState]) -> None:
        """Have a trial that has lanes trained from the given states on, one a replicate."""
        shape = self.shape(entrant.proposal.config)
        self.trainer.admit(entrant, shape, states)
        self.stacks.setdefault(shape, []).append(entrant)

    def train_epoch(self, reporter: Reporter) -> Iterator[tuple[Shape, StackEpoch | RuntimeError | MemoryError]]:
        """Train all stacks for one epoch.

        Yields:
            The shape of every stack with the results of its epoch, or with the error that says that memory ran out.
        """
        self.order += 1
        for shape, result in self.trainer.train_epoch(self.stacks, self.order, reporter):
            if isinstance(result, StackEpoch):
                self.training_seconds += result.wall_seconds
                self.lane_seconds += result.wall_seconds * self._lanes_in_use
            yield shape, result

    @property
    def _lanes_in_use(self) -> int:
        """Number of lanes that have a trial, including those that wait while another stack trains."""
        return self.n_parallel - len(self.free_slots)

    def leave(self) -> None:
        """Free the lanes of trials that have ended."""
        ended = [entrant for entrant in self.running if not entrant.alive]
        self.trainer.leave(ended)
        self.free_slots = sorted([*self.free_slots, *(slot for entrant in ended for slot in entrant.slots)])
        alive = {shape: [entrant for entrant in running if entrant.alive] for shape, running in self.stacks.items()}
        self.stacks = {shape: running for shape, running in alive.items() if running}
        self.waiting = [entrant for entrant in self.waiting if entrant.alive]

    def halve(self, shape: Shape, error: BaseException) -> str:
        """After memory ran out, halve the size of a shape's stack. Its trials wait to start again.

        Returns:
            A message that tells the user what was done.

        Raises:
            SweepError: Not even one trial fits.
        """
        running, size = self.stacks[shape], shape.batch_size
        of_trial = self.study.lanes_per_trial
        if len(running) <= 1:
            raise does_not_fit(of_trial, size, self.device) from error
        self.most_trials[shape] = most = -(-len(running) // 2)
        self.waiting = [*(entrant for entrant in running if entrant.alive), *self.waiting]
        self.free_slots = sorted([*self.free_slots, *(slot for entrant in running for slot in entrant.slots)])
        del self.stacks[shape]
        return (
            f"{of_trial * len(running)} lanes of batch size {size} do not fit in the memory of {self.device}; "
            f"their trials start again, {of_trial * most} at a time"
        )
