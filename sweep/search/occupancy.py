"""Which trial trains in which lanes, and the stack that trains them."""

import gc

import torch

from sweep.errors import SweepError
from sweep.features.batches import StageData, TrainingData, n_batches
from sweep.records.reporter import Reporter
from sweep.search.ledger import Entrant
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import EpochResult, Lane, Training


class Occupancy:
    """The lanes of a search.

    Args:
        study: What is searched.
        spec: Shape of the side-networks.
        train_data: What lanes learn from.
        val_data: What lanes are compared on.
        n_parallel: Lanes to train at a time, at most.
        device: Where they train.

    Attributes:
        running: Trials in training.
        waiting: Trials that were asked for, and have to start from their first epoch again.
        free_slots: Numbers of the lanes that nobody trains in.
        order: The data order that the stack followed last.
        training_seconds: Wall time inside training and evaluation.
        lane_seconds: The same, of all lanes that had a trial.
    """

    def __init__(
        self,
        study: Study,
        spec: SideNetworkSpec,
        train_data: TrainingData,
        val_data: StageData,
        *,
        n_parallel: int,
        device: torch.device,
    ):
        self.study = study
        self.spec = spec
        self.train_data, self.val_data = train_data, val_data
        self.n_parallel = n_parallel
        self.device = device
        self.running: list[Entrant] = []
        self.waiting: list[Entrant] = []
        self.free_slots = list(range(n_parallel))
        self.order = 0
        self.training_seconds = self.lane_seconds = 0.0
        self._training: Training | None = None

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

    def admit(self, entrant: Entrant) -> None:
        """Give a trial lanes that are free; it trains from the next epoch on."""
        self.update_lanes(take_apart=True)
        n_lanes, config = self.study.seeds, entrant.proposal.config
        self.running.append(entrant)
        entrant.slots, self.free_slots = self.free_slots[:n_lanes], self.free_slots[n_lanes:]
        entrant.record.first_order = self.order + 1
        entrant.lanes = [self.new_lane(config, seed) for seed in entrant.record.seeds]

    def new_lane(self, config: LaneConfig, seed: int) -> Lane:
        """A lane that has not trained yet."""
        return Lane(config, self.spec.lane(config.rank, seed).to(self.device), seed)

    def train_epoch(self, reporter: Reporter) -> EpochResult:
        """Train all lanes that have a trial for one epoch."""
        study = self.study
        lanes = [lane for entrant in self.running for lane in entrant.lanes]
        if self._training is None:
            self._training = Training(
                lanes,
                self.train_data,
                self.val_data,
                n_epochs=study.epochs,
                batch_size=study.batch_size,
                seed=study.seed,
            )
        self.order += 1
        n_steps = n_batches(len(self.train_data), study.batch_size)
        reporter.epoch_started(len(lanes), len(self.running) / study.epochs / n_steps)
        result = self._training.epoch(self.order, reporter.step)
        self.training_seconds += result.wall_seconds
        self.lane_seconds += result.wall_seconds * len(lanes)
        return result

    def update_lanes(self, *, take_apart: bool = False) -> None:
        """Bring the lanes of running trials up to date with the stack.

        Args:
            take_apart: Whether the next epoch has other lanes, and so another stack.
        """
        if self._training is not None:
            self._training.update_lanes()
            if take_apart:
                self._training = None

    def leave(self) -> None:
        """Free the lanes of trials that have ended."""
        freed = [slot for entrant in self.running if not entrant.alive for slot in entrant.slots]
        self.free_slots = sorted([*self.free_slots, *freed])
        self.running = [entrant for entrant in self.running if entrant.alive]
        self.waiting = [entrant for entrant in self.waiting if entrant.alive]

    def halve(self, error: BaseException) -> str:
        """Go on with half the lanes after memory ran out; all trials wait to start from their first epoch again.

        Returns:
            What was done, for the user.

        Raises:
            SweepError: Not even one trial fits.
        """
        study, n_lanes = self.study, self.study.seeds * len(self.running)
        if len(self.running) <= 1:
            raise SweepError(
                f"one trial ({study.seeds} lane{'s' * (study.seeds > 1)} of batch size {study.batch_size}) does not "
                f"fit in the memory of {self.device}; lower --batch-size or --max-rank"
            ) from error
        self.running, self.waiting, self._training = [], [e for e in self.entrants if e.alive], None
        self.n_parallel = max(study.seeds, -(-n_lanes // 2))
        self.free_slots = list(range(self.n_parallel))
        return (
            f"{n_lanes} lanes of batch size {study.batch_size} do not fit in the memory of {self.device}; "
            f"their trials start again, {self.n_parallel} at a time"
        )

    def free_memory(self) -> None:
        """Give back what a stack held, lest the next one find its memory taken."""
        if self._training is None:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
