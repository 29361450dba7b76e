"""The packaged ViT derived from DINOv2-S: its conversion, its cache file, and the errors if a part is missing."""

import importlib.util
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from sweep.data import Split, load_data
from sweep.errors import SweepError
from sweep.machine import packaged_files

NAME = "dinov2_small_focus"


@pytest.fixture(scope="module")
def backbone(cache_dir: Path) -> FrozenBackbone:
    return load_backbone(NAME, group_size=3, image_size=56, cache_dir=cache_dir)


def test_shape_and_transform(backbone: FrozenBackbone, cache_dir: Path) -> None:
    assert (backbone.width, backbone.n_blocks, backbone.n_prefix_tokens, backbone.tokens) == (384, 12, 1, 17)
    assert backbone.stage_indices == (0, 3, 6, 9, 12)
    assert backbone.transform.mean == (0.485, 0.456, 0.406)
    default = load_backbone(NAME, group_size=12, cache_dir=cache_dir)
    assert (default.image_size, default.tokens) == (112, 65)


def features(backbone: FrozenBackbone, split: Split, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean patch token of the 9th block for `count` images spread over the split, and their labels."""
    indices = range(0, split.n_images, split.n_images // count)
    images = torch.stack([backbone.transform(split.open(index)) for index in indices])
    return backbone.stages(images)[3][:, 1:].mean(dim=1), torch.from_numpy(split.labels[list(indices)])


def test_weights_know_more_than_random_ones(backbone: FrozenBackbone, cache_dir: Path) -> None:
    """On digits, the nearest class mean is more accurate than with random weights.

    A misplaced weight would undo this.
    """
    data = load_data("mnist", seed=0, cache_dir=cache_dir)
    untrained = load_backbone("untrained:vit_small_patch14_dinov2", group_size=3, image_size=56, cache_dir=cache_dir)
    accuracy = []
    for model in (backbone, untrained):
        train, train_labels = features(model, data.train, 50)
        test, test_labels = features(model, data.val, 50)
        means = torch.stack([train[train_labels == label].mean(dim=0) for label in range(10)])
        accuracy.append((torch.cdist(test, means).argmin(dim=1) == test_labels).float().mean().item())
    assert accuracy[0] > accuracy[1] + 0.1
    assert accuracy[0] > 0.6


@pytest.fixture
def own_cache(backbone: FrozenBackbone, cache_dir: Path, tmp_path: Path) -> Path:
    """A cache that has the converted file but no wheel."""
    shutil.copytree(cache_dir / "backbones", tmp_path / "backbones")
    return tmp_path


def test_damaged_cache_file_is_rebuilt_with_a_warning(
    own_cache: Path, cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = own_cache / "backbones" / f"{NAME}.safetensors"
    intact = path.read_bytes()
    damaged = bytearray(intact)
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    (own_cache / "wheels").symlink_to(cache_dir / "wheels")
    with caplog.at_level(logging.WARNING):
        load_backbone(NAME, group_size=12, image_size=56, cache_dir=own_cache)
    assert "is damaged; converting it again" in caplog.text
    with safe_open(path, "pt") as file:
        rebuilt = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - `file` is not a mapping
    assert rebuilt.keys() == load(intact).keys()
    assert all(torch.equal(rebuilt[name], tensor) for name, tensor in load(intact).items())


def test_converted_file_needs_neither_wheel_nor_onnx(
    backbone: FrozenBackbone, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    again = load_backbone(NAME, group_size=3, image_size=56, cache_dir=own_cache)
    assert again.fingerprint == backbone.fingerprint
    assert not (own_cache / "wheels").exists()


def test_without_onnx_the_remedy_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packaged_files.subprocess, "run", lambda *args, **kwargs: pytest.fail("fetched"))
    with pytest.raises(SweepError, match=r'python -m pip install -e "\.\[demo\]"'):
        load_backbone(NAME, group_size=1, cache_dir=tmp_path)
