"""Images of every colour mode and size become the same kind of input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from backbones import Transform, load_backbone
from backbones.sizes import recorded_size, transform_record
from sweep.errors import UsageError

PLAIN = Transform(image_size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_colour_modes(mode: str) -> None:
    image = Image.new("RGB", (7, 3), (255, 0, 0)).convert(mode)
    tensor = PLAIN(image)
    assert tensor.shape == (3, 4, 4)
    assert tensor.dtype == torch.float32
    expected = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 4, 4)
    torch.testing.assert_close(tensor, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (5, 5), 128),
        Image.new("LA", (5, 5), (128, 0)),
        Image.fromarray(np.full((5, 5), 128 * 256 + 3, dtype=np.uint16)),
        Image.new("I", (5, 5), 128),
        Image.new("F", (5, 5), 128.0),
    ],
    ids=["L", "LA", "I;16", "I", "F"],
)
def test_grey_modes(image: Image.Image) -> None:
    torch.testing.assert_close(PLAIN(image), torch.full((3, 4, 4), 128 / 255))


def test_bilevel() -> None:
    assert torch.equal(PLAIN(Image.new("1", (5, 5), 1)), torch.ones(3, 4, 4))


def test_palette_with_transparency_given_as_bytes() -> None:
    image = Image.new("P", (5, 5), 1)
    image.putpalette([0, 0, 0, 0, 255, 0])
    image.info["transparency"] = bytes([255, 0])
    assert torch.equal(PLAIN(image)[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]))


def test_resizes_to_the_square_and_normalises() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 17, 3), dtype=np.uint8)
    transform = Transform(6, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), interpolation="bilinear")
    resized = np.asarray(Image.fromarray(pixels).resize((6, 6), Image.Resampling.BILINEAR)) / 255
    expected = (resized - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.25, 2.0])
    got = transform(Image.fromarray(pixels)).permute(1, 2, 0).double()
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 48), (40, 61), (17, 9), (32, 32), (200, 30)])
@pytest.mark.parametrize(("image_size", "crop_pct"), [(24, 0.875), (24, 0.9), (32, 1.0), (15, 0.95)])
def test_a_crop_equals_timms_crop(size: tuple[int, int], image_size: int, crop_pct: float) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    of_timm = create_transform((3, image_size, image_size), mean=mean, std=std, crop_pct=crop_pct)
    transform = Transform(image_size, mean, std, interpolation="bilinear", crop_pct=crop_pct)
    image = Image.fromarray(pixels)
    torch.testing.assert_close(transform(image), of_timm(image), rtol=1e-5, atol=1e-6)


def test_a_very_narrow_image_is_cropped_before_it_is_enlarged() -> None:
    image = Image.new("RGB", (100_000, 2), (255, 0, 0))
    assert torch.equal(Transform(224, (0, 0, 0), (1, 1, 1), crop_pct=0.9)(image)[:, 0, 0], torch.tensor([1.0, 0, 0]))


def test_only_a_crop_is_recorded() -> None:
    """A squashing transform keeps the record, and so the cache key, that it had before sweep could crop images."""
    assert set(transform_record(PLAIN)) == {"image_size", "mean", "std", "interpolation"}
    cropped = replace(PLAIN, crop_pct=0.9)
    assert transform_record(cropped) == {**transform_record(PLAIN), "crop_pct": 0.9}
    assert recorded_size(transform_record(PLAIN)) == {"image_size": 4, "resize": "squash"}
    assert recorded_size(transform_record(cropped)) == {"image_size": 4, "resize": "crop"}
    assert recorded_size(transform_record(replace(PLAIN, crop_pct=1.0))) == {"image_size": 4, "resize": "centre"}


def test_a_centre_crop_keeps_a_square_whole() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert torch.equal(replace(PLAIN, crop_pct=1.0)(image), PLAIN(image))
    wide = Image.new("RGB", (90, 30))
    wide.paste(image, (30, 0))
    # as large as the image, so that resizing does not blur the sides into the centre
    squashed = replace(PLAIN, image_size=30)
    assert torch.equal(replace(squashed, crop_pct=1.0)(wide), squashed(image))
    assert not torch.equal(squashed(wide), squashed(image))


@pytest.mark.parametrize(("name", "crop_pct"), [("tiny-untrained", 0.9), ("untrained:resnet10t", 0.875)])
def test_a_backbone_crops_as_its_authors_do_where_it_is_asked_to(name: str, crop_pct: float, tmp_path: Path) -> None:
    plain, squashed, cropped, centred = (
        load_backbone(name, group_size=2, resize=how, image_size=64, cache_dir=tmp_path)
        for how in (None, "squash", "crop", "centre")
    )
    assert plain.transform == squashed.transform
    assert cropped.transform == replace(plain.transform, crop_pct=crop_pct)
    assert centred.transform == replace(plain.transform, crop_pct=1.0)
    assert cropped.fingerprint == plain.fingerprint


def test_texts_are_not_resized(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resize is for images, and the backbone 'minilm_l6' reads texts"):
        load_backbone("minilm_l6", resize="crop", cache_dir=tmp_path)
