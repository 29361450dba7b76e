"""Which images make a batch, in which order, and what a batch holds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sweep.features.batches import StageData, n_batches, training_batches
from sweep.machine.seeds import derive_seed, generator


def some_data(dtype: type = np.float32) -> StageData:
    rng = np.random.default_rng(0)
    stages = rng.normal(size=(7, 3, 5, 4)).astype(dtype)
    return StageData(stages, torch.tensor([0, 1, 3, 1, 0, 3, 1]), 5)


@pytest.mark.parametrize(
    ("n_images", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 4, [3]), (5, 1, [1] * 5), (9, 8, [8, 1])],
)
def test_an_epoch_has_every_image_once(n_images: int, batch_size: int, sizes: list[int]) -> None:
    batches = list(training_batches(n_images, batch_size, seed=1, epoch=1))
    assert [len(batch) for batch in batches] == sizes
    assert n_batches(n_images, batch_size) == len(sizes)
    assert sorted(torch.cat(batches).tolist()) == list(range(n_images))


def order(seed: int, epoch: int) -> list[int]:
    return torch.cat(list(training_batches(64, 10, seed, epoch))).tolist()


def test_every_epoch_and_every_seed_has_its_own_order() -> None:
    orders = [tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (1, 2, 3)]
    assert len({*orders, tuple(range(64))}) == 7


def test_the_same_seed_gives_the_same_order_whatever_the_global_state() -> None:
    torch.manual_seed(0)
    first = order(3, 2)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert order(3, 2) == first
    torch.manual_seed(0)
    assert order(3, 2) == first
    assert torch.equal(torch.get_rng_state(), state), "a batch order must not use up global random numbers"


def test_batch_size_does_not_change_the_order() -> None:
    assert torch.cat(list(training_batches(64, 7, 3, 2))).tolist() == order(3, 2)


def test_seeds_of_different_purposes_differ() -> None:
    purposes = [("a", 1), ("a", 2), ("a",), ("b", 1), ("a", "1"), ()]
    seeds = {derive_seed(seed, *purpose) for seed in (0, 1, -1) for purpose in purposes}
    assert len(seeds) == 3 * len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)
    first, again, other = (torch.rand(4, generator=generator(5, *purpose)) for purpose in (("a",), ("a",), ("b",)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeds_are_the_same_in_every_process_and_release() -> None:
    """Recorded studies depend on these numbers. A change here would change every result."""
    assert derive_seed(0, "data order", 1) == 6919231241724124631


def test_class_counts_include_empty_classes() -> None:
    data = some_data()
    assert data.class_counts.tolist() == [2, 3, 0, 2, 0]
    assert len(data) == 7


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float64])
def test_a_batch_holds_the_images_asked_for(stored: type, wanted: torch.dtype) -> None:
    data = some_data(stored)
    indices = torch.tensor([4, 0, 6])
    stages, labels = data.batch(indices, torch.zeros(1, dtype=wanted))
    assert labels.tolist() == [0, 0, 1]
    assert len(stages) == 3
    for i, stage in enumerate(stages):
        assert stage.dtype == wanted
        assert stage.is_contiguous()
        assert torch.equal(stage, torch.from_numpy(data.stages[[4, 0, 6], i]).to(wanted))


def test_a_memory_mapped_file_is_read_as_an_array_and_not_changed(tmp_path: Path) -> None:
    data = some_data(np.float16)
    np.save(tmp_path / "stages.npy", data.stages)
    mapped = StageData(np.load(tmp_path / "stages.npy", mmap_mode="r"), data.labels, 5)
    indices = torch.tensor([1, 5])
    stages, _ = mapped.batch(indices, torch.zeros(1))
    expected, _ = data.batch(indices, torch.zeros(1))
    assert all(torch.equal(a, b) for a, b in zip(stages, expected, strict=True))
    for stage in stages:
        stage.zero_()
    assert np.array_equal(np.load(tmp_path / "stages.npy"), data.stages)


@pytest.mark.parametrize("tokens", [slice(0, 1), slice(1, None), slice(2, None), slice(0, None)])
def test_pooled_is_the_mean_over_tokens(tokens: slice) -> None:
    data = some_data(np.float16)
    pooled = data.pooled(tokens)
    assert pooled.stages.shape == (7, 3, 1, 4)
    expected = data.stages[:, :, tokens].astype(np.float64).mean(2, keepdims=True)
    # Each is a sum of at most five numbers in fp32. A sum in the file's fp16 would be off by about 1e-3.
    np.testing.assert_allclose(pooled.stages, expected, rtol=1e-6, atol=1e-6)
    assert pooled.n_classes == 5
    assert torch.equal(pooled.labels, data.labels)


@pytest.mark.parametrize("which", [[1], [1, 2], [0, 1, 2], [2, 3]])
def test_some_stages_of_several_widths_are_read_as_of_all(which: list[int]) -> None:
    widths = (3, 4, 4, 6)
    stages = np.random.default_rng(0).normal(size=(7, 1, 5, sum(widths)))
    data = StageData(stages, torch.zeros(7, dtype=torch.int64), 5, widths=widths)
    wanted, like = torch.tensor([6, 2, 3]), torch.empty(0, dtype=torch.float64)
    whole, _ = data.batch(wanted, like)
    some = data.of_stages(which)
    assert some.widths == tuple(widths[stage] for stage in which)
    found, _ = some.batch(wanted, like)
    for stage, tokens in zip(which, found, strict=True):
        assert torch.equal(tokens, whole[stage])
    assert len(found) == len(which)
    each = np.stack(list(some.stages))
    assert each.shape == some.stages.shape
    assert np.array_equal(each, some.stages[:])
    assert some.stages.nbytes == each.nbytes


def test_stages_of_several_widths_are_taken_one_after_the_other() -> None:
    data = StageData(np.zeros((2, 1, 5, 9)), torch.zeros(2, dtype=torch.int64), 5, widths=(2, 3, 4))
    with pytest.raises(ValueError, match=r"one after the other, not \[0, 2\]"):
        data.of_stages([0, 2])
