"""Networks that a user built with timm: if one cannot be adapted, the error says what to build instead."""

from pathlib import Path

import pytest
import torch

from backbones import load_backbone
from backbones.image_sizes import require_room_for_an_image
from sweep.errors import UsageError

VIT = """
from timm.models import VisionTransformer
from backbones import Transform


def build():
    network = VisionTransformer(img_size={size}, patch_size={patch}, in_chans={channels}, embed_dim=32, depth=2,
                                num_heads=2, num_classes=0)
    {then}
    return network
"""
WITH_TRANSFORM = "network.transform = Transform(32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"


def own(folder: Path, **changes: object) -> object:
    values = {"size": 32, "patch": 8, "channels": 3, "then": WITH_TRANSFORM, **changes}
    (folder / "mine.py").write_text(VIT.format(**values))
    return load_backbone(f"{folder}/mine.py:build", cache_dir=folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 1}, "its images have 1 channels, not 3; build it with in_chans=3"),
        ({"then": f"{WITH_TRANSFORM}; network.half()"}, r"is of type torch\.float16; return network\.float\(\)"),
        ({"then": f"{WITH_TRANSFORM}; network.double()"}, r"is of type torch\.float64; return network\.float\(\)"),
        ({"size": (32, 64)}, "its images of 32 x 64 px are not square"),
        ({"patch": (8, 4)}, "its patches of 8 x 4 px are not square"),
        ({"then": "pass"}, r"it has no pretrained_cfg with mean, std, interpolation; set network\.transform ="),
    ],
)
def test_networks_that_cannot_be_adapted_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        own(tmp_path, **changes)


def test_a_network_with_its_own_transform_is_accepted(tmp_path: Path) -> None:
    backbone = own(tmp_path)
    stages = backbone.stages(torch.zeros(2, 3, 32, 32))  # type: ignore[attr-defined]
    assert [tuple(stage.shape) for stage in stages] == [(2, 17, 32)] * 3


def test_a_missing_function_is_refused_with_a_list_of_functions(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build():\n    pass\n\n\ndef other():\n    pass\n")
    with pytest.raises(UsageError, match=r"mine\.py has no function nope; it has build, other"):
        load_backbone(f"{tmp_path}/mine.py:nope", cache_dir=tmp_path)


@pytest.mark.parametrize("image_size", [100_000, 10**9])
def test_an_image_that_memory_does_not_hold(tmp_path: Path, image_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backbones.image_sizes.available_bytes", lambda device: 8 * 2**30)
    with pytest.raises(UsageError, match=f"--image-size {image_size} is too large for 'untrained:resnet18': one image"):
        load_backbone("untrained:resnet18", image_size=image_size, cache_dir=tmp_path)
    require_room_for_an_image("resnet18", 4096)


@pytest.mark.parametrize("size", [1, 7, 13])
def test_image_sizes_below_one_patch_are_refused(cache_dir: Path, size: int) -> None:
    with pytest.raises(UsageError, match="image size"):
        load_backbone("dinov2_small_focus", image_size=size, cache_dir=cache_dir)


def test_names_in_the_hubs_spelling_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded: list[str] = []
    monkeypatch.setattr("backbones._load", lambda name, *rest: loaded.append(name) or torch.nn.Identity())
    for name in ("hf-hub:timm/resnet18.a1_in1k", "hf_hub:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"):
        load_backbone(name, cache_dir=tmp_path)
    assert loaded == ["resnet18.a1_in1k"] * 3
    with pytest.raises(
        UsageError, match=r"of the image networks on the hub, sweep takes only timm's own.*give \./mine\.py:build"
    ):
        load_backbone("hf-hub:somebody/net", cache_dir=tmp_path)
