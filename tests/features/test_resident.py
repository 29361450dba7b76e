"""Splits that are held on a device, or read in advance for it: same batches, and the memory budget is kept."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from backbones.stages import Stages
from sweep.features import resident
from sweep.features.batches import StageData
from sweep.features.prefetched import PrefetchedStageData
from sweep.features.resident import ResidentStageData, resident_where_it_fits

CPU = torch.device("cpu")


def some_data(n_images: int = 7) -> StageData:
    stages = np.random.default_rng(0).normal(size=(n_images, 3, 5, 4)).astype(np.float16)
    return StageData(stages, torch.arange(n_images) % 4, 5)


@pytest.mark.parametrize("at_a_time", [1, 3, 64])
def test_batches_are_those_of_the_split(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "COPIED_IMAGES", at_a_time)
    data = some_data()
    held = ResidentStageData.of(data, CPU)
    indices, like = torch.tensor([4, 0, 6]), torch.zeros(1)
    (stages, labels), (expected, expected_labels) = held.batch(indices, like), data.batch(indices, like)
    assert torch.equal(labels, expected_labels)
    for stage, wanted in zip(stages, expected, strict=True):
        assert stage.dtype == torch.float32
        assert stage.is_contiguous()
        assert torch.equal(stage, wanted)
    assert torch.equal(held.class_counts, data.class_counts)
    assert np.array_equal(held.pooled(slice(1, None)).stages, data.pooled(slice(1, None)).stages)


def test_the_device_has_its_own_copy() -> None:
    data = some_data()
    held = ResidentStageData.of(data, CPU)
    data.stages[:] = 0
    assert held.on_device.any()


def test_batches_read_ahead_are_those_of_the_split() -> None:
    data, like = replace(some_data(), lengths=torch.tensor([5, 1, 3, 5, 2, 4, 1])), torch.zeros(1)
    ahead = PrefetchedStageData.of(data)
    assert {name: getattr(ahead, name) for name in vars(data)} == vars(data)
    indices = [torch.tensor(places) for places in ([4, 0, 6], [1], [5, 2])]
    found, expected = (list(one.batches(1, indices, like)) for one in (ahead, data))
    assert len(found) == 3
    for (stages, labels), (wanted, wanted_labels) in zip(found, expected, strict=True):
        assert isinstance(stages, Stages)
        assert torch.equal(stages.lengths, wanted.lengths)
        assert torch.equal(torch.stack(list(stages)), torch.stack(list(wanted)))
        assert torch.equal(labels, wanted_labels)


def test_a_batch_is_read_while_the_one_before_it_is_used() -> None:
    read: list[list[int]] = []
    in_use = threading.Event()

    class Watched:
        shape, dtype, nbytes = some_data().stages.shape, np.dtype(np.float16), 0

        def __getitem__(self, places: np.ndarray) -> np.ndarray:
            assert places.tolist() == [0] or in_use.wait(30), "the first batch must not wait for the second"
            read.append(places.tolist())
            return np.zeros((len(places), 3, 5, 4), np.float16)

    data = PrefetchedStageData.of(StageData(Watched(), torch.arange(7) % 4, 5))
    batches = data.batches(1, [torch.tensor([place]) for place in range(4)], torch.zeros(1))
    next(batches)
    in_use.set()
    batches.close()  # waits for its thread
    assert read == [[0], [1]]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_a_batch_that_cannot_be_read_raises_at_the_reader() -> None:
    data = PrefetchedStageData.of(some_data(3))
    batches = data.batches(1, [torch.tensor([0]), torch.tensor([9])], torch.zeros(1))
    next(batches)
    with pytest.raises(IndexError):
        next(batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_sent_ahead_to_a_gpu_are_those_of_the_split() -> None:
    data, like = some_data(), torch.zeros(1, device="cuda")
    indices = [torch.tensor([place, (place + 3) % 7]) for place in range(7)] * 20
    both = zip(PrefetchedStageData.of(data).batches(1, indices, like), data.batches(1, indices, like), strict=True)
    for (stages, labels), (wanted, wanted_labels) in both:
        assert torch.equal(torch.stack(stages), torch.stack(wanted))
        assert torch.equal(labels, wanted_labels)


@pytest.mark.parametrize(("budget_images", "placed"), [(14, [True, True]), (9, [True, False]), (5, [False, True])])
def test_splits_that_fit_the_budget_are_placed(
    budget_images: int, placed: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_device = ResidentStageData.of
    monkeypatch.setattr(ResidentStageData, "of", lambda data, device: of_device(data, CPU))
    splits = [some_data(7), some_data(4)]
    budget_bytes = budget_images * splits[0].stages[0].nbytes
    found = resident_where_it_fits(splits, torch.device("cuda"), budget_bytes)
    kinds = [ResidentStageData if fits else PrefetchedStageData for fits in placed]
    assert [type(data) for data in found] == kinds
    assert resident_where_it_fits(splits, CPU, budget_bytes) == splits
