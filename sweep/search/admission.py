"""Proposing trials and giving them free lanes."""

from sweep.search.filling import Filling, most_at_first
from sweep.search.journal import not_together
from sweep.search.latency import LatencyMeter
from sweep.search.ledger import Entrant, Ledger
from sweep.search.occupancy import Occupancy
from sweep.search.proposals import Proposal, Proposals
from sweep.search.shape_space import Follow, ShapeSpace
from sweep.search.trainer import UnusableShapeError
from sweep.side_networks.cost import enough_lanes
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.study.objectives import INFERENCE_SECONDS
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackSetting


class Admission:
    """Fills the free lanes of a search between two epochs.

    Args:
        proposals: Proposes the trials.
        lanes: The lanes to fill.
        ledger: Opens the records of the trials.

    Attributes:
        latency: Measures the side-networks' inference time; None if the study does not ask for it.
        shapes: The shapes that the study's lanes can have.
        filling: Decides which shape takes the next free lane.
    """

    def __init__(self, proposals: Proposals, lanes: Occupancy, ledger: Ledger):
        self.proposals, self.lanes, self.ledger = proposals, lanes, ledger
        self.study = study = lanes.study
        self.latency = LatencyMeter(lanes, proposals.own) if INFERENCE_SECONDS in study.ranking.names else None
        self.shapes = ShapeSpace(study)
        n_given = 1 + len(study.enqueue)  # the baseline first
        most = most_at_first(study.trials, proposals.n_given)
        self.filling = Filling(lanes.n_parallel // study.lanes_per_trial, self._enough, n_given, most)
        self._lead: tuple[Shape, Follow] | None = None
        self._n_counted = self._n_of_study = 0
        self._trainable: dict[tuple[SideNetworkSpec, int], int] = {}
        self._met: set[Shape] = set()

    def fill(self) -> None:
        """Give free lanes to trials that wait for memory. If none waits, give them to new trials."""
        self.proposals.look_again()
        if not self.lanes.running:
            self.lanes.order = 0  # new stacks: their trials see the data in the order that the first ones saw
        self._admit_waiting()
        while self.lanes.has_room and not self.lanes.waiting and (proposal := self._propose()):
            entrant = self._enter(proposal)
            if entrant is not None:
                self.lanes.waiting.append(entrant)
                self._admit_waiting()
        self._lead = None

    def _admit_waiting(self) -> None:
        """Give free lanes to the waiting trials whose shapes still fit in memory."""
        for entrant in list(self.lanes.waiting):
            if self.lanes.has_room and self.lanes.fits(self.lanes.shape(entrant.proposal.config)):
                self.lanes.waiting.remove(entrant)
                self.lanes.admit(entrant)
                self.ledger.place(entrant)

    def _propose(self) -> Proposal | None:
        """The next configuration: a follower of the last lead, or the sampler's free choice; see `filling.py`."""
        through = self._count_of_study() == self.study.trials or self.proposals.exhausted
        if not self.shapes.varies:
            return self.proposals.next(clones_only=through)
        if self._lead is not None and not through:
            shape, follow = self._lead
            wanted = self.filling.wants_follower(shape, self.lanes.n_running(shape))
            if wanted and (proposal := self.proposals.next(follow=follow)) is not None:
                return proposal
            self._lead = None
        proposal = self.proposals.next(clones_only=through)
        if proposal is not None:
            shape = self.lanes.shape(proposal.config)
            self.filling.lead(proposal.number, shape)
            if not self.proposals.sampler.enumerates:
                self._lead = shape, self.shapes.follow(proposal.params, proposal.distributions)
        return proposal

    def _enter(self, proposal: Proposal) -> Entrant | None:
        """Open a trial's record. If no lane can have its shape, fail the trial and return None."""
        shape = self.shapes.described(proposal.config)
        try:
            spec = self._setting(proposal.config).spec
        except UnusableShapeError as error:
            entrant = self.ledger.enter(proposal, 0, None, shape)
            self.ledger.fail(entrant, str(error))
            self._lead = None
            self.ledger.reporter.message(f"trial {proposal.number} cannot be trained: {error}")
            return None
        return self.ledger.enter(
            proposal,
            self._trainable_parameters(spec, proposal.config),
            self.latency.of(proposal) if self.latency else None,
            shape,
        )

    def _setting(self, config: LaneConfig) -> StackSetting:
        """The setting of a lane. That of a new shape may need another backbone and its features."""
        shape = self.lanes.shape(config)
        if shape in self._met:
            return self.lanes.setting_of(shape)
        with not_together(self.proposals.optuna_study):
            setting = self.lanes.setting_of(shape)
        self._met.add(shape)
        return setting

    def _count_of_study(self) -> int:
        """Number of the trials so far that are no clones."""
        records = self.ledger.log.records
        new = records[self._n_counted :]
        self._n_of_study += sum(not self.proposals.is_clone(record.user_attrs) for record in new)
        self._n_counted = len(records)
        return self._n_of_study

    def _trainable_parameters(self, spec: SideNetworkSpec, config: LaneConfig) -> int:
        """Number of trainable parameters of a lane, counted once for all lanes that have equally many."""
        if spec.is_own:
            return spec.trainable_parameters(config.rank, config)
        if (spec, config.rank) not in self._trainable:
            self._trainable[spec, config.rank] = spec.trainable_parameters(config.rank, config)
        return self._trainable[spec, config.rank]

    def _enough(self, shape: Shape) -> int:
        """Number of trials beyond which a larger stack is hardly cheaper per trial."""
        setting = self.lanes.setting_of(shape)
        n_lanes = enough_lanes(setting.spec.stack_work(setting.tokens), setting.spec.lane_work(setting.tokens))
        return -(-n_lanes // self.study.lanes_per_trial)
