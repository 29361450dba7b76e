"""Unusual image files that must be read, and damaged ones: size, orientation, 32 bits, HEIC, many bad files at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweep.data import formats, load_data
from sweep.data.decoding import decode
from sweep.data.files import MOST_SHOWN, ImageChecker
from sweep.data.formats import PIXEL_LIMIT, PIXEL_LIMIT_VARIABLE, pixel_limit
from sweep.errors import SweepError, UsageError

NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    """An image is read as a viewer shows it. EXIF defines the side to which the stored row 0 and column 0 belong."""
    upright = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, 1),
    }[orientation]
    Image.fromarray(NOISE).save(tmp_path / "turned.png", exif=exif(orientation))
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "turned.png")), upright(NOISE))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("damage", [b"II*\x00", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", b"\x00" * 40])
def test_images_with_damaged_metadata_are_read(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "sound.jpg"
    Image.fromarray(NOISE).save(path, quality=95)
    plain = np.asarray(Image.open(path))
    Image.fromarray(NOISE).save(path, quality=95, exif=damage)
    np.testing.assert_array_equal(np.asarray(decode(path)), plain)


def test_an_orientation_beside_a_damaged_tag_is_applied(tmp_path: Path) -> None:
    """Pillow's own `exif_transpose` writes all tags again, and fails if one of them has a type that it cannot write."""
    tags = exif(6)
    tags[0x9286] = b"comment"
    content = bytearray(tags.tobytes())
    place = content.index(b"\x86\x92") if b"\x86\x92" in content else content.index(b"\x92\x86")
    content[place + 2 : place + 4] = b"\x63\x63"  # a type that does not exist
    Image.fromarray(NOISE).save(tmp_path / "odd.png", exif=bytes(content))
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "odd.png")), np.rot90(NOISE, -1))


def test_a_large_photograph_is_read_and_a_larger_one_names_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (12_000, 9_000)).save(path)  # 108 megapixels, the size of a photograph from some phones
    assert ImageChecker("error").readable([path]).all()
    assert decode(path).size == (12_000, 9_000)
    Image.new("1", (16_000, 9_000)).save(path)
    with pytest.raises(SweepError, match=r"wide\.png: it has more than 128 megapixels, .*SWEEP_MAX_IMAGE_PIXELS"):
        decode(path)
    monkeypatch.setenv(PIXEL_LIMIT_VARIABLE, "150_000_000")
    assert ImageChecker("error").readable([path]).all()
    monkeypatch.setenv(PIXEL_LIMIT_VARIABLE, "many")
    with pytest.raises(UsageError, match=r"SWEEP_MAX_IMAGE_PIXELS must be a number of pixels, such as .*not 'many'"):
        decode(path)
    monkeypatch.setenv(PIXEL_LIMIT_VARIABLE, "")
    assert pixel_limit() == PIXEL_LIMIT == 128_000_000


def test_far_more_than_the_limit_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = (30_000).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(SweepError, match=r"bomb\.bmp: it has more than 128 megapixels"):
        ImageChecker("error").readable([path])


def thirty_two_bits(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.int32)).save(path)
    return path


def test_16_bit_greys_in_32_bits_are_read_as_such(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 54).reshape(6, 9).astype(np.int32)
    found = decode(thirty_two_bits(tmp_path / "deep.tif", values))
    assert found.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(found), values)


@pytest.mark.parametrize(("least", "largest"), [(-1, 9000), (0, 70_000), (0, 255)])
def test_32_bit_values_that_may_mean_anything_are_refused_before_features(
    tmp_path: Path, least: int, largest: int
) -> None:
    path = thirty_two_bits(tmp_path / "odd.tif", np.array([[least, largest]]))
    for read in (decode, lambda path: ImageChecker("error").readable([path])):
        with pytest.raises(SweepError, match=rf"odd\.tif: it has 32-bit values \(I\) from {least} to {largest}, "):
            read(path)


def test_all_bad_images_are_named_at_once_and_not_too_many(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:02}.png" for number in range(41)]
    for path in paths:
        path.write_bytes(b"no image")
    with pytest.raises(SweepError) as caught:
        ImageChecker("error").readable(paths)
    message = str(caught.value)
    assert message.startswith("cannot read 41 images:\n")
    assert sum(str(path) in message for path in paths) == MOST_SHOWN
    assert f"and {41 - MOST_SHOWN} more" in message
    assert message.endswith("leave them out with --on-bad-image skip")


def test_heic_is_read_if_its_package_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    assert formats.heif_is_read()
    for name, colour in (("cats", (200, 30, 30)), ("dogs", (30, 30, 200))):
        (tmp_path / name).mkdir()
        for number in range(4):
            image = Image.new("RGB", (64, 48), colour)
            pillow_heif.from_pillow(image).save(tmp_path / name / f"{number}.HEIC", quality=90)
    data = load_data(str(tmp_path), seed=0, cache_dir=tmp_path)
    for index in range(data.train.n_images):
        red, _, blue = data.train.open(index).convert("RGB").getpixel((30, 20))
        assert (red > blue) == (data.train.labels[index] == 0)
