"""The plan's formulas, compared with the sizes of real tensors, and what follows from them."""

import os
from pathlib import Path

import pytest
import torch

from backbones import load_backbone
from sweep.data import load_data
from sweep.features.cache import compute_features, n_images_missing
from sweep.machine.memory import available_bytes, is_out_of_memory
from sweep.running.memory_model import (
    bytes_per_lane,
    kept_bytes,
    lanes_that_fit,
    parameter_bytes,
    shared_bytes,
)
from sweep.side_networks.cost import ELEMENTWISE_WORK, STREAM_WORK, cheaper_form, work_per_token
from sweep.side_networks.cpu.stream_trunk import FEWEST_RANKS, _PooledStreams
from sweep.side_networks.cpu.trunk import _PooledTrunk
from sweep.side_networks.cpu.vectors import VECTOR
from sweep.side_networks.rank_space_trunk import FrozenStreams, _Trunk
from sweep.side_networks.spec import SideNetworkSpec

BATCH, TOKENS = 3, 7
CPU = torch.device("cpu")


def spec_of(n_stages: int = 4, modules_per_block: int = 1, max_rank: int = 4, width: int = 16) -> SideNetworkSpec:
    return SideNetworkSpec(
        width=width,
        n_stages=n_stages,
        n_classes=5,
        n_prefix_tokens=1,
        modules_per_block=modules_per_block,
        pool="mean",
        max_rank=max_rank,
    )


def n_bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.nbytes for t in tensors)


@pytest.mark.parametrize("spec", [spec_of(), spec_of(n_stages=2), spec_of(n_stages=3, modules_per_block=2, max_rank=2)])
def test_formulas_count_what_one_lane_keeps(spec: SideNetworkSpec) -> None:
    k, r, d = spec.n_modules, spec.max_rank, spec.width
    stages = [torch.randn(BATCH, TOKENS, d) for _ in range(spec.n_stages)]
    frozen = FrozenStreams.of(stages, modules_per_block=spec.modules_per_block, eps=1e-5)
    shapes = [(1, 3 * r, d)] * k + [(1, 3 * r)] * k + [(1, r, d)] * k
    kept = _Trunk.forward(frozen, True, *(torch.randn(shape) for shape in shapes))
    assert kept_bytes(spec, BATCH * TOKENS, compiled=False) == n_bytes(list(kept))
    lanes = (torch.randn(1, k, *shape) for shape in ((3 * r, d), (3 * r,), (r, d)))
    _, *kept = _PooledTrunk.forward(frozen, slice(1, None), True, *lanes)
    assert kept_bytes(spec, BATCH * TOKENS, compiled=True) == n_bytes(kept)
    assert parameter_bytes(spec) == n_bytes(list(spec.lane(1, seed=0).parameters()))


@pytest.mark.parametrize("rank", [FEWEST_RANKS, FEWEST_RANKS + 1])
@pytest.mark.parametrize("width", [2 * VECTOR, 2 * VECTOR + 4])
def test_formula_counts_what_one_lane_of_a_large_rank_keeps(rank: int, width: int) -> None:
    spec = spec_of(max_rank=rank, width=width)
    k, r, d = spec.n_modules, -(-rank // VECTOR) * VECTOR, -(-width // (2 * VECTOR)) * 2 * VECTOR
    frozen = FrozenStreams.of([torch.randn(BATCH, TOKENS, width) for _ in range(k + 1)], modules_per_block=1, eps=1e-5)
    lanes = (torch.randn(1, k, *shape) for shape in ((3 * r, d), (3 * r,), (r, d)))
    _, _, *kept = _PooledStreams.forward(frozen, slice(1, None), True, width, *lanes)
    assert kept_bytes(spec, BATCH * TOKENS, compiled=True) == n_bytes(kept)
    assert bytes_per_lane(spec, TOKENS, BATCH, compiled=True) > n_bytes(kept)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_lane_takes_more_with_every_size(compiled: bool) -> None:
    small = bytes_per_lane(spec_of(), 65, 64, compiled=compiled)
    for larger in (
        bytes_per_lane(spec_of(n_stages=5), 65, 64, compiled=compiled),
        bytes_per_lane(spec_of(max_rank=5), 65, 64, compiled=compiled),
        bytes_per_lane(spec_of(width=17), 65, 64, compiled=compiled),
        bytes_per_lane(spec_of(), 66, 64, compiled=compiled),
        bytes_per_lane(spec_of(), 65, 65, compiled=compiled),
    ):
        assert larger > small


def test_a_small_training_batch_leaves_the_evaluation_its_memory() -> None:
    assert bytes_per_lane(spec_of(), 65, 1, compiled=False) == bytes_per_lane(spec_of(), 65, 2, compiled=False)
    assert bytes_per_lane(spec_of(), 65, 2, compiled=False) > bytes_per_lane(spec_of(), 65, 2, compiled=True)
    assert shared_bytes(spec_of(), 65, 1) == shared_bytes(spec_of(), 65, 64) < shared_bytes(spec_of(), 65, 65)


def test_parts_that_train_at_the_same_time_have_streams_of_their_own() -> None:
    one, two, three = (shared_bytes(spec_of(), 65, 64, n_parts=n) for n in (1, 2, 3))
    assert one < two < three < 3 * one
    assert three - two == two - one


def test_lanes_that_fit_grow_with_the_memory_and_leave_a_fifth_of_it() -> None:
    shared, per_lane = 1000, 70
    fitting = [lanes_that_fit(free, shared, per_lane) for free in range(0, 10_000, 100)]
    assert fitting == sorted(fitting)
    assert fitting[0] == fitting[12] == 0, "no lane fits until there is memory for the shared part"
    for free, lanes in zip(range(0, 10_000, 100), fitting, strict=True):
        if lanes:
            assert shared + lanes * per_lane <= 0.8 * free < shared + (lanes + 1) * per_lane


def test_rank_space_wins_at_low_rank_and_the_direct_form_at_high() -> None:
    assert cheaper_form(work_per_token(384, 8, 12)) == "rank space"
    assert cheaper_form(work_per_token(384, 256, 12)) == "direct"
    forms = [cheaper_form(work_per_token(384, rank, 12)) for rank in range(1, 257)]
    assert forms == sorted(forms, reverse=True), "the forms cross at one rank only"
    assert cheaper_form(work_per_token(384, 16, 48)) == "rank space", "its products of width D grow with K, not K²"


def test_work_of_a_few_modules_by_hand() -> None:
    assert work_per_token(10, 2, 1) == {"rank space": 10 * (4 * 12 + 12), "direct": 24 * 10 * 2 + ELEMENTWISE_WORK * 10}
    assert work_per_token(10, 2, 3)["rank space"] == 3 * 10 * (4 * 12 + 12) + 24 * 4 * 3
    assert work_per_token(10, FEWEST_RANKS, 3)["rank space"] == 30 * (26 * FEWEST_RANKS + STREAM_WORK)
    dense = work_per_token(10, FEWEST_RANKS, 3, dense=True)
    assert dense["rank space"] == 30 * (24 * FEWEST_RANKS + 12) + 24 * FEWEST_RANKS**2 * 3
    assert work_per_token(10, 70, 3)["rank space"] == 4 * 10 * 70 * (9 + 3) + 24 * 4900 * 3


def test_available_memory_is_positive_and_no_more_than_the_machine_has() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes(torch.device("cpu")) <= physical


@pytest.mark.parametrize(
    ("proc", "files"),
    [
        (
            "0::/job/step\n",
            {"job/memory.max": "5000", "job/memory.current": "3000", "job/memory.stat": "inactive_file 7"},
        ),
        (
            "4:cpu,memory:/job\n0::/\n",
            {
                "memory/job/memory.limit_in_bytes": "5000",
                "memory/job/memory.usage_in_bytes": "3000",
                "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 7",
            },
        ),
    ],
)
def test_a_control_group_limits_what_is_available(
    proc: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both versions of control groups are read. The limit may be on a group above that of the process."""
    (tmp_path / "proc").write_text(proc)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr("sweep.machine.memory.CGROUPS", tmp_path / "groups")
    monkeypatch.setattr("sweep.machine.memory.OWN_CGROUPS", tmp_path / "proc")
    assert available_bytes(torch.device("cpu")) == 5000 - 3000 + 7
    for path in tmp_path.glob("groups/**/memory.max"):
        path.write_text("max")
        assert available_bytes(torch.device("cpu")) > 10_000


def test_out_of_memory_is_distinguished_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_images_missing_from_the_cache_are_counted(photos: Path, tmp_path: Path) -> None:
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)
    split = load_data(str(photos), seed=0, cache_dir=tmp_path).train
    assert n_images_missing(backbone, split, tmp_path) == split.n_images

    def stop(n_done: int, n_images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(backbone, split, cache_dir=tmp_path, batch_size=4, on_progress=stop)
    assert n_images_missing(backbone, split, tmp_path, batch_size=4) == split.n_images - 4
    assert n_images_missing(backbone, split, tmp_path) == split.n_images, "other batches are not continued"
    compute_features(backbone, split, cache_dir=tmp_path, batch_size=4)
    assert n_images_missing(backbone, split, tmp_path) == 0
