"""A step that is recorded and replayed trains the same weights. A stand-in keeps the work that CUDA would record."""

from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from backbones.stages import Stages
from sweep.side_networks.head import KEEP
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.tasks.lane_losses import LaneLosses
from sweep.training.engine import take_step
from sweep.training.graphs import SWITCH, WARM_UP_STEPS, GraphedStep, Step, graphed
from sweep.training.optim import LaneOptimizers
from sweep.training.stack import Stack

N_LANES, N_IMAGES, N_TOKENS = 3, 6, 5
SPEC = SideNetworkSpec(16, 3, 4, 1, modules_per_block=1, pool="mean", max_rank=2)


class Recorded:
    """A graph of operations on the CPU. Unlike CUDA's, it keeps Python code, so its work must return nothing."""

    def __init__(self) -> None:
        self.work: Callable[[], None] | None = None
        self.n_replays = 0

    def record(self, work: Callable[[], None]) -> None:
        assert self.work is None, "recorded once"
        self.work = work

    def replay(self) -> None:
        assert self.work is not None
        self.n_replays += 1
        self.work()


def step_and_weights() -> tuple[Step, Mapping[str, Tensor]]:
    configs = [LaneConfig(lr=0.01 * (lane + 1)) for lane in range(N_LANES)]
    stack = Stack([SPEC.lane(2, seed) for seed in range(N_LANES)])
    losses_of = LaneLosses(configs, torch.ones(SPEC.n_classes), torch.float32)
    return partial(take_step, stack, losses_of, LaneOptimizers(stack.params, configs, flat=True)), stack.params


Batch = tuple[list[Tensor], Tensor, Tensor, Mapping[str, Tensor]]


def batch(number: int, n_images: int = N_IMAGES) -> Batch:
    generator = torch.Generator().manual_seed(number)
    stages = [torch.randn(n_images, N_TOKENS, SPEC.width, generator=generator) for _ in range(SPEC.n_stages)]
    labels = torch.randint(SPEC.n_classes, (n_images,), generator=generator)
    kept = torch.rand(N_LANES, n_images, SPEC.width, generator=generator)
    return stages, labels, torch.rand(N_LANES, generator=generator), {KEEP: kept}


def assert_same_training(batches: list[Batch], n_replays: int) -> None:
    graph = Recorded()
    plain, expected = step_and_weights()
    step, weights = step_and_weights()
    replayed = GraphedStep(step, graph)
    losses = [(replayed(*of_step), plain(*of_step)) for of_step in batches]
    assert all(torch.equal(ours, theirs) for ours, theirs in losses), "each step's losses are tensors of their own"
    assert all(torch.equal(weights[name], p) for name, p in expected.items())
    assert graph.n_replays == n_replays


def test_replayed_steps_train_to_the_same_bits() -> None:
    assert_same_training([batch(number) for number in range(WARM_UP_STEPS + 4)], 4)


def test_a_smaller_last_batch_runs_as_always() -> None:
    of_epoch = [*map(batch, range(WARM_UP_STEPS)), batch(8, N_IMAGES - 2)]
    assert_same_training(of_epoch + of_epoch, WARM_UP_STEPS)


def test_texts_run_as_always() -> None:
    lengths = torch.tensor([2, 5, 3, 2, 5, 4])
    of_texts: list[Batch] = [
        (Stages(stages, lengths), *others) for stages, *others in map(batch, range(WARM_UP_STEPS + 2))
    ]
    assert_same_training(of_texts, 0)


@pytest.mark.parametrize("value", ["1", "0", None])
def test_a_cpu_has_no_graphs(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    step, _ = step_and_weights()
    assert graphed(step, torch.device("cpu")) is step


def test_the_switch_is_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    step, _ = step_and_weights()
    monkeypatch.setattr("sweep.training.graphs.CudaGraph", Recorded)
    assert graphed(step, torch.device("cuda")) is step
    monkeypatch.setenv(SWITCH, "1")
    assert isinstance(graphed(step, torch.device("cuda")), GraphedStep)
