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
from sweep.features.resident import DeviceRoom, ResidentStageData, RoomedStageData, room_on

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


def read(data: StageData, order: int = 1) -> type[StageData]:
    """Read a split once and return what was read: its copy, or the split itself one batch ahead."""
    assert isinstance(data, RoomedStageData)
    source = data.room.to_read(data)
    (stages, labels), (expected, expected_labels) = (
        next(one.batches(order, [torch.tensor([2, 0])], torch.zeros(1))) for one in (source, some_data(len(data)))
    )
    assert all(torch.equal(stage, wanted) for stage, wanted in zip(stages, expected, strict=True))
    assert torch.equal(labels, expected_labels)
    return type(source)


@pytest.mark.parametrize(("budget_images", "copied"), [(11, [True, True]), (9, [True, False]), (5, [False, True])])
def test_splits_are_copied_while_there_is_room(budget_images: int, copied: list[bool]) -> None:
    room = DeviceRoom(CPU, budget_images * some_data().stages[0].nbytes)
    splits = [room.of(some_data(7)), room.of(some_data(4))]
    for _ in range(3):
        assert [read(data) is ResidentStageData for data in splits] == copied
        assert room.used_bytes <= room.budget_bytes


def test_features_of_a_shape_without_lanes_make_room() -> None:
    room = DeviceRoom(CPU, 8 * some_data().stages[0].nbytes)
    first, second = room.of(some_data(7)), room.of(some_data(5))
    assert read(first) is ResidentStageData
    for _ in range(3):  # both shapes are in use: neither displaces the other
        assert read(second) is PrefetchedStageData
        assert read(first) is ResidentStageData
    read(second)
    assert read(second) is ResidentStageData, "the first split was not read since"
    assert room.used_bytes == second.stages.nbytes
    assert read(first) is PrefetchedStageData


def test_only_as_many_copies_are_dropped_as_needed() -> None:
    room = DeviceRoom(CPU, 10 * some_data().stages[0].nbytes)
    old, recent, new = (room.of(some_data(n_images)) for n_images in (4, 5, 3))
    for data in (old, recent, new, new):
        read(data)
    assert [read(data) is ResidentStageData for data in (new, recent, old)] == [True, True, False]


def test_a_cpu_reads_features_where_they_are_stored() -> None:
    assert room_on(CPU, 2**30) is None
