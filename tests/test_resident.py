"""Splits held on a device: the same batches, the budget kept."""

import numpy as np
import pytest
import torch

from sweep import resident
from sweep.batches import StageData
from sweep.resident import ResidentStageData, resident_where_it_fits

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


def test_the_copy_is_the_devices_own() -> None:
    data = some_data()
    held = ResidentStageData.of(data, CPU)
    data.stages[:] = 0
    assert held.on_device.any()


@pytest.mark.parametrize(("budget_images", "placed"), [(14, [True, True]), (9, [True, False]), (5, [False, True])])
def test_what_fits_is_placed(budget_images: int, placed: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    of_device = ResidentStageData.of
    monkeypatch.setattr(ResidentStageData, "of", lambda data, device: of_device(data, CPU))
    splits = [some_data(7), some_data(4)]
    budget_bytes = budget_images * splits[0].stages[0].nbytes
    found = resident_where_it_fits(splits, torch.device("cuda"), budget_bytes)
    assert [isinstance(data, ResidentStageData) for data in found] == placed
    assert resident_where_it_fits(splits, CPU, budget_bytes) == splits
