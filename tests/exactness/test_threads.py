"""A lane has the same bits on any number of threads, and whether it is measured alone or beside others."""

import copy
import itertools
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.features.batches import StageData
from sweep.machine.precision import write_product
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.tasks.boxes import found_boxes
from sweep.tasks.boxes import n_outputs as n_of_token
from sweep.tasks.kinds import CLASSES, DETECTION, MULTI_LABEL, REGRESSION, SEGMENTATION, TASK_KINDS, TaskKind
from sweep.tasks.targets import Target
from sweep.training.engine import EpochResult, train
from sweep.training.measurement import measure_lanes

WIDTH, N_STAGES, TOKENS, N_CLASSES, BATCH_SIZE = 24, 3, 26, 5, 8
FULL, FEW = range(2, 9), (3, 8)
WITH_ATTENTION = {"attention": True, "read_out": "both"}


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def stage_data(n_images: int, seed: int, *, width: int = WIDTH, n_classes: int = N_CLASSES) -> StageData:
    rng = np.random.default_rng(seed)
    stages = rng.normal(size=(n_images, N_STAGES, TOKENS, width)).astype(np.float32)
    return StageData(stages, torch.from_numpy(rng.integers(0, n_classes, n_images)), n_classes)


def spec_of(family: str, *, width: int = WIDTH, n_classes: int = N_CLASSES, **options: Any) -> SideNetworkSpec:
    return SideNetworkSpec(
        width=width,
        n_stages=N_STAGES,
        n_classes=n_classes,
        n_prefix_tokens=1,
        modules_per_block=1,
        pool="mean",
        max_rank=4,
        family=family,
        n_tokens=TOKENS,
        **options,
    )


def trained(spec: SideNetworkSpec, last: int, n_threads: int) -> dict[str, Tensor]:
    """Train three lanes for an epoch whose last batch has `last` images.

    Return their weights, logits and training loss.
    """
    torch.set_num_threads(n_threads)
    configs = [
        LaneConfig(lr=1e-2, rank=4, clip_norm=1.0),
        LaneConfig(lr=3e-3, rank=2, loss="focal"),
        LaneConfig(lr=1e-2, rank=3, loss="bce", optimizer="sgd"),
    ]
    modules = [spec.lane(config.rank, seed, config) for seed, config in enumerate(configs)]
    train_data, val_data = stage_data(BATCH_SIZE + last, 0), stage_data(6, 1)
    states, (result,) = train(modules, configs, train_data, val_data, n_epochs=1, batch_size=BATCH_SIZE, seed=0)
    weights = {f"{lane} {name}": weight for lane, state in enumerate(states) for name, weight in state.items()}
    return {**weights, "answers": result.val_logits, "train_loss": result.train_loss}


@pytest.mark.parametrize(
    ("family", "options", "threads"),
    [
        ("last", {}, FULL),
        ("ladder", WITH_ATTENTION, (2, *FEW)),
        *(("ladder", {"read_out": read_out}, FEW) for read_out in ("attention", "compact")),
        *((family, {}, FEW) for family in ("convolution", "full_convolution", "mixer", "multi_stage", "probe")),
    ],
)
@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_lane_has_the_same_bits_on_any_number_of_threads(
    family: str, options: dict[str, Any], threads: Sequence[int], last: int
) -> None:
    spec = spec_of(family, **options)
    expected = trained(spec, last, 1)
    for n_threads in threads:
        result = trained(spec, last, n_threads)
        assert [name for name in expected if not torch.equal(result[name], expected[name])] == [], n_threads


@pytest.mark.parametrize(
    ("family", "n_lanes", "batch_size", "n_classes", "width", "threads"),
    [
        *(("last", n_lanes, BATCH_SIZE, 100, WIDTH, (1, 2, 4, 8)) for n_lanes in (2, 4)),
        ("last", 2, 100, 10, 192, (8,)),
        ("last", 2, 100, 100, 384, (8,)),
        ("probe", 2, 100, 100, 192, (8,)),
        *((family, 8, 64, 100, WIDTH, (16,)) for family in ("ladder", "multi_stage", "probe")),
    ],
)
def test_threads_do_not_divide_a_lane_if_there_are_more_of_them_than_lanes(
    family: str, n_lanes: int, batch_size: int, n_classes: int, width: int, threads: Sequence[int]
) -> None:
    """Two lanes on one thread have the same bits as among others on many threads: that is how `sweep verify` repeats a
    trial. The sizes are some for which PyTorch and MKL divide a lane's sums among threads if one lets them.
    """
    sizes = {"width": width, "n_classes": n_classes}
    spec = spec_of(family, **sizes, **(WITH_ATTENTION if family == "ladder" else {}))
    data = stage_data(batch_size + 3, 0, **sizes), stage_data(70, 1, **sizes)

    def first_two(n_lanes: int, n_threads: int) -> dict[str, Tensor]:
        torch.set_num_threads(n_threads)
        kinds = itertools.cycle([{"loss": "cross_entropy"}, {"loss": "bce", "clip_norm": 1.0}])
        configs = [LaneConfig(lr=1e-2, rank=4, **kind) for kind in itertools.islice(kinds, n_lanes)]
        modules = [spec.lane(4, seed, config) for seed, config in enumerate(configs)]
        states, (result,) = train(modules, configs, *data, n_epochs=1, batch_size=batch_size, seed=0)
        weights = {f"{lane} {name}": x for lane in range(2) for name, x in states[lane].items()}
        return {**weights, "answers": result.val_logits[:2], "train_loss": result.train_loss[:2]}

    expected = first_two(2, 1)
    for n_threads in threads:
        result = first_two(n_lanes, n_threads)
        assert [name for name in expected if not torch.equal(result[name], expected[name])] == [], n_threads
        assert torch.get_num_threads() == n_threads


@pytest.mark.parametrize("n_columns", [1, 17, 24, 40, 65, 106, 196, 384])
def test_a_product_with_any_number_of_columns_has_the_same_bits_on_any_number_of_threads(n_columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, frozen = (torch.randn(shape, generator=generator) for shape in ((20, 300), (300, n_columns)))
    torch.set_num_threads(1)
    expected = torch.empty(20, n_columns)
    write_product(expected, a, frozen)
    assert torch.allclose(expected, a @ frozen, atol=1e-4)
    for n_threads in FULL:
        torch.set_num_threads(n_threads)
        for same in (frozen, frozen.T.contiguous().T):
            out = torch.empty(20, n_columns)
            write_product(out, a, same)
            assert torch.equal(out, expected), n_threads


@pytest.mark.parametrize("kind", TASK_KINDS.values(), ids=TASK_KINDS)
def test_a_lane_measured_alone_has_the_metrics_it_has_beside_others(kind: TaskKind) -> None:
    n_images, n_outputs, n_tokens = {SEGMENTATION: 300, DETECTION: 50}.get(kind, 10_000), 10, 9
    generator = torch.Generator().manual_seed(0)
    shape = (n_images, n_tokens, n_outputs) if kind is SEGMENTATION else (n_images, n_outputs)
    outputs = torch.randn(3, *shape, generator=generator)
    boxes = torch.rand(n_images, 5, 6, generator=generator)
    boxes[..., 0] = torch.randint(n_outputs, (n_images, 5), generator=generator)
    boxes[..., 3:5], boxes[..., 5] = boxes[..., 1:3] + 0.2, 0
    if kind is DETECTION:
        outputs = found_boxes(torch.randn(3, n_images, n_tokens, n_of_token(n_outputs), generator=generator))
    labels = {
        DETECTION: boxes,
        CLASSES: torch.randint(n_outputs, (n_images,), generator=generator),
        MULTI_LABEL: torch.randint(2, (n_images, n_outputs), generator=generator),
        REGRESSION: torch.randn(n_images, n_outputs, generator=generator),
        SEGMENTATION: torch.randint(n_outputs, (n_images, 12, 12), generator=generator),
    }[kind]
    scale: dict[str, Any] = {"mean": (0.0,) * n_outputs, "std": (1.0,) * n_outputs} if kind is REGRESSION else {}
    val_data = StageData(np.zeros((n_images, 1, 1, 1), np.float16), labels, n_outputs, target=Target(kind, **scale))

    def measured(lanes: slice, n_threads: int) -> dict[str, float]:
        torch.set_num_threads(n_threads)
        result = EpochResult(torch.ones(3)[lanes], outputs[lanes], 0.0)
        return measure_lanes(result, val_data, {})[0].metrics

    together = measured(slice(0, 3), 1)
    assert set(together) == {*(f"val_{name}" for name in kind.metrics), "train_loss"}
    for n_threads in (1, 2, 4, 8):
        assert measured(slice(0, 1), n_threads) == together, n_threads
        assert measured(slice(0, 2), n_threads) == together, n_threads


def test_kinds_and_targets_are_the_same_objects_after_pickling() -> None:
    for kind in TASK_KINDS.values():
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert copy.deepcopy(kind) is kind
    target = pickle.loads(pickle.dumps(Target(REGRESSION, (1.0,), (2.0,))))
    assert target == Target(REGRESSION, (1.0,), (2.0,))
    assert target.decode(torch.tensor([[3.0]])).item() == 7.0
