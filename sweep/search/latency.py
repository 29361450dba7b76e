"""How long a side-network takes for one image, for studies that have this time as an objective."""

import statistics
import time

import torch

from sweep.search.occupancy import Occupancy
from sweep.search.own_attributes import OwnAttributes
from sweep.search.proposals import Proposal
from sweep.study.lane_config import LaneConfig
from sweep.study.objectives import INFERENCE_SECONDS
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackSetting

WARM_UP, REPETITIONS = 5, 30


class LatencyMeter:
    """Times plain side-networks, once per shape and rank, since lanes that share both are equally fast.

    Args:
        lanes: The lanes that train the trials.
        own: Names of sweep's own attributes of Optuna's trials.
    """

    def __init__(self, lanes: Occupancy, own: OwnAttributes):
        self.lanes, self.own = lanes, own
        self._seconds: dict[tuple[Shape, int], float] = {}

    def of(self, proposal: Proposal) -> float:
        """Median wall seconds of one image through the side-network alone, without the backbone.

        If an earlier process measured the time and told Optuna, that value is used.
        """
        config = proposal.config
        key = self.lanes.shape(config), config.rank
        if key not in self._seconds or self.lanes.setting(config).spec.is_own:  # the rank does not decide its size
            recorded = self.own.get(proposal.known, INFERENCE_SECONDS) if proposal.known else None
            self._seconds[key] = self._measure(self.lanes.setting(config), config) if recorded is None else recorded
        return self._seconds[key]

    @torch.no_grad()
    def _measure(self, setting: StackSetting, config: LaneConfig) -> float:
        module = setting.spec.plain(config.rank, config).to(self.lanes.device)
        stages, _ = setting.val_data.batch(torch.arange(1), next(module.parameters()))
        seconds = []
        for _ in range(WARM_UP + REPETITIONS):
            started = time.perf_counter()
            module(stages).cpu()
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[WARM_UP:])
