"""What is sent to workers is as small as possible, and arrives unchanged."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sweep.features.batches import StageData
from sweep.features.rows import JoinedRows
from sweep.machine.user_code import execute
from sweep.tasks.kinds import MULTI_LABEL
from sweep.tasks.targets import Target
from sweep.workers.packing import packed, unpacked


@pytest.fixture
def mapped(tmp_path: Path) -> np.memmap:
    path = tmp_path / "stages.f16"
    np.arange(40_000, dtype=np.float16).tofile(path)
    return np.memmap(path, dtype=np.float16, mode="c", shape=(100, 2, 10, 20))


def test_mapped_features_are_sent_as_a_path(mapped: np.memmap) -> None:
    labels = torch.zeros(100, 3, dtype=torch.int64)
    data = StageData(JoinedRows(mapped, mapped), torch.cat([labels, labels]), 3, target=Target(MULTI_LABEL))
    content = packed(data)
    assert len(content) < mapped.nbytes / 4
    again = unpacked(content)
    indices = torch.tensor([3, 150])
    assert torch.equal(again.stored(indices), data.stored(indices))
    assert torch.equal(again.labels, data.labels)
    assert again.target.kind is MULTI_LABEL


def test_a_part_of_mapped_features_is_sent_with_its_contents(mapped: np.memmap) -> None:
    part = unpacked(packed(mapped[10:12, 1:]))
    assert np.array_equal(part, mapped[10:12, 1:])
    assert not np.array_equal(part, mapped[:2, 1:])


def test_tensors_arrive_unchanged() -> None:
    tensors = [
        torch.tensor(2.5, dtype=torch.float64),
        torch.arange(12.0).reshape(3, 4).T,
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.tensor([1.5], dtype=torch.bfloat16),
    ]
    for again, tensor in zip(unpacked(packed(tensors)), tensors, strict=True):
        assert again.dtype == tensor.dtype
        assert again.shape == tensor.shape
        assert torch.equal(again, tensor)
        again.zero_()  # what arrives can be written to


def test_a_part_of_a_tensor_is_sent_without_the_rest() -> None:
    assert len(packed(torch.zeros(100_000)[:10])) < 1000


def test_functions_of_a_users_file_are_sent_with_their_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_the_file.py").write_text(
        "import functools\n\n\n@functools.cache\ndef twice(x):\n    return 2 * x\n"
    )
    path = tmp_path / "mine.py"
    path.write_text("from beside_the_file import twice\n\n\ndef four_times(x):\n    return twice(twice(x))\n")
    content = packed(execute(path, kind="study").four_times)
    path.write_text("raise RuntimeError('this file is not imported again')")
    (tmp_path / "beside_the_file.py").unlink()
    for name in ("beside_the_file", "sweep_study_mine"):
        monkeypatch.delitem(sys.modules, name)
    assert unpacked(content)(3) == 12
