"""Images of every mode become the same kind of input."""

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Transform

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
