"""How files are written."""

import errno
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sweep.machine.paths import save_weights


def test_weights_are_written_with_their_metadata(tmp_path: Path) -> None:
    save_weights({"a": torch.arange(3)}, tmp_path / "w.safetensors", {"rank": "2"})
    assert torch.equal(load_file(tmp_path / "w.safetensors")["a"], torch.arange(3))


@pytest.mark.parametrize("others", [{}, {"e": torch.linspace(0, 1, 5).bfloat16()}])
def test_weights_are_the_bytes_that_safetensors_writes_for_tensors(others: dict[str, Tensor], tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    weights = {
        "b": torch.randn(3, 4, generator=rng),
        "a": torch.randn(2, 2, generator=rng).double(),
        "c": torch.tensor([True, False]),
        "d": torch.nn.Parameter(torch.tensor(1.5).half()),
        "f": torch.zeros(0, 3),
        **others,
    }
    save_weights({**weights, "g": weights["b"].T}, tmp_path / "ours", {"rank": "2"})
    save_file({**weights, "g": weights["b"].T.contiguous()}, tmp_path / "theirs", {"rank": "2"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_weights_that_do_not_fit_are_an_error_of_the_system_that_names_the_file(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_weights({"a": torch.zeros(10_000)}, tmp_path / "w.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "w.safetensors")


def test_weights_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_weights({"a": torch.arange(3)}, tmp_path / "none" / "w.safetensors")
