"""The row that trains with CUDA graphs, which only the suite `gpu` measures."""

from functools import partial

import torch

from sweep.bench.rows import SweepRow
from sweep.bench.workload import Workload
from sweep.training.engine import take_step
from sweep.training.graphs import CudaGraph, GraphedStep, Step

GRAPHS = "sweep_graphs"


class GraphedRow(SweepRow):
    """Trains as `sweep run` does with CUDA graphs; on a CPU, without."""

    def __init__(self, workload: Workload, n_lanes: int):
        super().__init__(workload, n_lanes)
        step: Step = partial(take_step, self.stack, self.losses_of, self.optimizers)
        self._step = GraphedStep(step, CudaGraph()) if workload.device.type == "cuda" else step

    def step(self) -> None:
        """Do what `sweep.training.engine.Training` does for a batch."""
        stages, labels = self.data.batch(torch.arange(len(self.data)), self.stack.like)
        self._step(stages, labels, self.factor, {})
