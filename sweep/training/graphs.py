"""Records the operations of a training step once as a CUDA graph, and launches all of them together from then on.

With few lanes, a step on a GPU takes as long as the host needs to launch its operations. What graphs gain has not been
measured yet, so they are off unless the environment variable `SWEEP_CUDA_GRAPHS` is 1; see docs/gpu.md.
"""

import os
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from backbones.stages import lengths_of

SWITCH = "SWEEP_CUDA_GRAPHS"

WARM_UP_STEPS = 3
"""Steps before the recording, in which PyTorch and its libraries allocate what they keep."""

Step = Callable[[list[Tensor], Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""Takes stages, each `(B, L, D)`, labels `(B, …)`, factors on the learning rates `(N,)`, and buffers by name that are
replaced in this step. Updates the lanes in place, and returns their losses `(N,)`."""


class Graph(Protocol):
    """A recording of operations on fixed memory."""

    def record(self, work: Callable[[], None]) -> None:
        """Record the operations of `work` without running them."""

    def replay(self) -> None:
        """Run the recorded operations on what is in their memory now."""


class CudaGraph:
    """A recording by CUDA."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def record(self, work: Callable[[], None]) -> None:
        """See `Graph`. Another thread may read the next batch meanwhile."""
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            work()

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


def graphed(step: Step, device: torch.device) -> Step:
    """The step as a graph if the switch is on and the device is a GPU; else the step itself."""
    return GraphedStep(step, CudaGraph()) if device.type == "cuda" and os.environ.get(SWITCH) == "1" else step


class GraphedStep:
    """A step that is replayed for batches that have the shapes of the first one. Others, and texts, run as always.

    Args:
        step: The step. It may not read a result on the host.
        graph: An empty graph.
    """

    def __init__(self, step: Step, graph: Graph):
        self._step, self._graph = step, graph
        self._shapes: list[torch.Size] = []
        self._steps_taken = 0
        self._inputs: list[Tensor] = []
        self._losses: Tensor | None = None

    def __call__(self, stages: list[Tensor], labels: Tensor, factor: Tensor, replaced: Mapping[str, Tensor]) -> Tensor:
        """Take a step; see `Step`."""
        given = [*stages, labels, factor, *replaced.values()]
        shapes = [x.shape for x in given]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes or lengths_of(stages) is not None:
            return self._step(stages, labels, factor, replaced)
        self._steps_taken += 1
        if self._steps_taken <= WARM_UP_STEPS:
            return self._step(stages, labels, factor, replaced)
        if self._losses is None:
            self._record(len(stages), given, list(replaced))
        for own, x in zip(self._inputs, given, strict=True):
            own.copy_(x)
        self._graph.replay()
        assert self._losses is not None
        return self._losses.clone()

    def _record(self, n_stages: int, given: list[Tensor], names: list[str]) -> None:
        """Record a step whose inputs and losses lie where the graph will read and write them."""
        self._inputs = [x.clone() for x in given]
        stages, (labels, factor, *buffers) = self._inputs[:n_stages], self._inputs[n_stages:]
        losses = torch.empty_like(factor)

        def work() -> None:
            losses.copy_(self._step(stages, labels, factor, dict(zip(names, buffers, strict=True))))

        self._graph.record(work)
        self._losses = losses
