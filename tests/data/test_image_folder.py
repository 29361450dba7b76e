"""Folders of images: splits, order, fingerprints, and all the faults that they can have."""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Transform
from sweep.data import DataSet, OnBadImage, formats, load_data
from sweep.errors import SweepError, UsageError


def picture(path: Path, value: int = 0, size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value % 256, 50, 100)).save(path)


def fill(root: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        for index in range(size):
            picture(root / name / f"{index:03}.png", 40 * number + index)
    return root


def load(root: Path, seed: int = 0, on_bad_image: OnBadImage = "error") -> DataSet:
    return load_data(str(root), seed=seed, cache_dir=root / "unused", on_bad_image=on_bad_image)


def contents(data: DataSet) -> list[set[tuple[int, int]]]:
    """Return (red value, label) of every image, for train, val and test."""
    return [
        {(split.open(i).getpixel((0, 0))[0], int(split.labels[i])) for i in range(split.n_images)}
        for split in (data.train, data.val, data.test)
    ]


def test_splits_are_stratified_disjoint_seeded_and_complete(tmp_path: Path) -> None:
    root = fill(tmp_path / "data", {"Äpfel": 25, "pears": 10, "zoo": 3})
    data = load(root)
    assert (data.name, data.class_names) == ("data", ("pears", "zoo", "Äpfel"))
    sizes = [Counter(split.labels.tolist()) for split in (data.train, data.val, data.test)]
    assert sizes == [{0: 6, 1: 1, 2: 16}, {0: 2, 1: 1, 2: 4}, {0: 2, 1: 1, 2: 5}]
    parts = contents(data)
    assert len(set.union(*parts)) == sum(len(part) for part in parts) == 38
    assert {label for value, label in set.union(*parts) if value < 40} == {2}
    assert contents(load(root)) == parts
    assert load(root).train.fingerprint == data.train.fingerprint
    assert contents(load(root, seed=1)) != parts
    assert load(root, seed=1).train.fingerprint != data.train.fingerprint


def test_given_splits_are_used_as_they_are(tmp_path: Path) -> None:
    for name, size in (("train", 4), ("val", 2), ("test", 3)):
        fill(tmp_path / name, {"a": size, "b": size})
    data = load(tmp_path)
    assert [split.n_images for split in (data.train, data.val, data.test)] == [8, 4, 6]
    assert data.train.fingerprint == load(tmp_path, seed=5).train.fingerprint


def test_missing_val_is_taken_from_train(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 10, "b": 5})
    fill(tmp_path / "test", {"a": 1, "b": 1})
    data = load(tmp_path)
    assert [split.n_images for split in (data.train, data.val, data.test)] == [12, 3, 2]
    train, val, _ = contents(data)
    assert not train & val


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(fill(tmp_path, {"bus": 3, "train": 3})).class_names == ("bus", "train")


def test_other_files_are_ignored_and_subfolders_are_read(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._000.png").write_bytes(b"left by another system")
    (tmp_path / ".hidden").mkdir()
    picture(tmp_path / "b" / "more" / "deep.JPG", 200)
    data = load(tmp_path)
    assert sum(split.n_images for split in (data.train, data.val, data.test)) == 7
    assert data.n_classes == 2


def test_fingerprint_sees_contents_names_and_labels(tmp_path: Path) -> None:
    def built(name: str) -> Path:
        root = tmp_path / name
        for split in ("train", "val", "test"):
            fill(root / split, {"a": 2, "b": 2})
        return root

    reference, moved = load(built("one")).train.fingerprint, load(built("two")).train.fingerprint
    assert moved == reference
    changed = built("three")
    picture(changed / "train" / "a" / "000.png", 77)
    renamed = built("four")
    (renamed / "train" / "a" / "000.png").rename(renamed / "train" / "a" / "00.png")
    relabelled = built("five")
    for split in ("train", "val", "test"):
        shutil.copytree(relabelled / split / "a", relabelled / split / "_a")
    prints = {load(root).train.fingerprint for root in (changed, renamed, relabelled)}
    assert len(prints | {reference}) == 4


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("000", "001", "002"):
        Image.new("RGB", (6, 4)).save(tmp_path / "a" / f"{name}.png", exif=exif)
    train = load(tmp_path).train
    sizes = {int(train.labels[i]): train.open(i).size for i in range(train.n_images)}
    assert sizes == {0: (4, 6), 1: (6, 4)}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "0 class folders"),
        ({"only": 5}, "1 class folders, at least 2"),
        ({"a": 3, "b": 0}, r"class folder .*b has no images"),
        ({"a": 0, "b": 0}, "its subfolders have no images"),
        ({"a": 9, "b": 2}, r"class 'b' .* has 2 images; 3 are needed"),
        ({"train/a": 3, "train/b": 3}, "no test folder"),
        ({"train/a": 3, "train/b": 3, "test/a": 3, "test/c": 1}, r"missing \['b'\], additional \['c'\]"),
        ({"train/a": 3, "train/b": 1, "test/a": 3, "test/b": 1}, r"class 'b' .* has 1 image; 2 are needed"),
    ],
)
def test_wrong_folders(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    for name in sizes:
        (tmp_path / name).mkdir(parents=True)
    fill(tmp_path, sizes)
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_file_that_is_no_image_is_named_at_once(tmp_path: Path, content: bytes) -> None:
    fill(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b" / "001.png").write_bytes(content)
    with pytest.raises(SweepError, match=r"001\.png"):
        load(tmp_path)


def test_file_cut_short_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / f"{name}.jpg")
    data = load(tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SweepError, match=r"cannot read the image .*\.jpg"):
        data.train.open(0)


@pytest.mark.parametrize("odd", ["fold2", "labels"])
def test_a_misnamed_split_is_not_taken_for_a_class(tmp_path: Path, odd: str) -> None:
    for split in ("train", "test", odd):
        for name in ("cats", "dogs"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "0.png")
    with pytest.raises(UsageError, match=rf"beside test, train it has {odd}: name the splits"):
        load_data(str(tmp_path), seed=0, cache_dir=tmp_path)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_refused(tmp_path: Path, mode: str) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (4, 4)).save(tmp_path / name / f"{i}.png")
    Image.new(mode, (4, 4)).save(tmp_path / "dogs" / "4.tif")
    with pytest.raises(SweepError, match=rf"dogs/4\.tif: it has 32-bit values \({mode}\)"):
        load_data(str(tmp_path), seed=0, cache_dir=tmp_path)


def test_colours_that_cannot_become_rgb_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"cats": 3, "dogs": 3})
    Image.new("LAB", (4, 4)).save(tmp_path / "dogs" / "4.tif")
    with pytest.raises(SweepError, match=r"dogs/4\.tif: it has colours of mode LAB"):
        load(tmp_path)


def test_other_formats_under_an_images_name_are_not_opened(tmp_path: Path) -> None:
    """Pillow recognises a format by its content. An EPS file called .png would start Ghostscript."""
    fill(tmp_path, {"cats": 3, "dogs": 3})
    path = tmp_path / "dogs" / "4.png"
    Image.new("RGB", (4, 4)).save(path, format="EPS")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(SweepError, match=r"dogs/4\.png: cannot identify image file"):
        load(tmp_path)


def test_every_supported_kind_of_file_is_read(tmp_path: Path) -> None:
    """Palette, CMYK, 16-bit, grey and transparent images can be read, and so can the first frame of an animation."""
    fill(tmp_path, {"cats": 3, "dogs": 3})
    red, blue = Image.new("RGB", (9, 7), (255, 0, 0)), Image.new("RGB", (9, 7), (0, 0, 255))
    folder = tmp_path / "dogs"
    red.convert("CMYK").save(folder / "cmyk.jpg", quality=100, subsampling=0)
    red.convert("CMYK").save(folder / "cmyk.tif")
    red.convert("YCbCr").save(folder / "ycbcr.tif")
    red.quantize(4).save(folder / "palette.png")
    red.quantize(4).save(folder / "palette.bmp")
    red.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    for name in ("moving.gif", "moving.png", "moving.webp", "pages.tiff"):
        options = {"lossless": True} if name.endswith("webp") else {}
        red.save(folder / name, save_all=True, append_images=[blue], **options)
    data = load(tmp_path)
    transform = Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    seen = 0
    for split in (data.train, data.val, data.test):
        for index in range(split.n_images):
            if Path(split.describe(index).split("(")[1]).stem.isalpha():
                torch.testing.assert_close(
                    transform(split.open(index)),
                    torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 4, 4),
                    rtol=0,
                    atol=0.02,
                )
                seen += 1
    assert seen == 10


def test_a_link_to_nothing_is_named_and_links_to_files_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "shelf" / "one.png", 9)
    root = fill(tmp_path / "data", {"cats": 3, "dogs": 3})
    (root / "cats" / "link.png").symlink_to(tmp_path / "shelf" / "one.png")
    (root / "linked").symlink_to(root / "dogs")
    assert load(root).n_classes == 3
    (tmp_path / "shelf" / "one.png").unlink()
    with pytest.raises(SweepError, match=r"cats/link\.png: .*No such file"):
        load(root)


def test_unreadable_images_are_left_out_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """This includes damage behind the header.

    Splits and fingerprints are those of a folder without the damaged files.
    """
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    fill(tmp_path / "data", {"cats": 8, "dogs": 8})
    reference = load(tmp_path / "data")
    broken = {
        tmp_path / "data" / "cats" / "cut.jpg": "truncated",
        tmp_path / "data" / "cats" / "empty.gif": "cannot identify",
        tmp_path / "data" / "dogs" / "text.png": "cannot identify",
        tmp_path / "data" / "dogs" / "wide.tif": "32-bit values",
        tmp_path / "data" / "dogs" / "link.webp": "No such file",
    }
    cut, empty, text, wide, link = broken
    Image.fromarray(noise).save(cut)
    os.truncate(cut, cut.stat().st_size // 2)
    empty.touch()
    text.write_text("an apology for a missing image")
    Image.new("F", (4, 4)).save(wide)
    link.symlink_to(tmp_path / "nowhere")

    data = load(tmp_path / "data", on_bad_image="skip")
    assert {Path(skipped.path) for skipped in data.skipped} == broken.keys()
    for skipped in data.skipped:
        assert broken[Path(skipped.path)] in skipped.reason
        assert f"skipped: {skipped.path}: {skipped.reason}" in caplog.text
    assert [split.fingerprint for split in (data.train, data.val, data.test)] == [
        split.fingerprint for split in (reference.train, reference.val, reference.test)
    ]
    with pytest.raises(SweepError, match="Replace or remove them, or leave them out with --on-bad-image skip"):
        load(tmp_path / "data")


@pytest.mark.parametrize(
    ("sizes", "n_bad", "message"),
    [
        (
            {"a": 3, "b": 4},
            4,
            r"class folder [^,]*b has no images .*4 unreadable images were skipped\); fill or remove it",
        ),
        ({"a": 0, "b": 4, "c": 3}, 4, r"class folders [^,]*a, [^,]*b have no images .*fill or remove them"),
        (
            {"a": 1, "b": 4, "c": 2},
            1,
            r"^2 classes in .* have too few images \(1 unreadable image was skipped\): 'a' has 1, 'c' has 2; ",
        ),
        ({"a": 1, "b": 4}, 1, r"class 'a' .* has 1 image \(1 unreadable image was skipped\); 3 are needed"),
        ({"a": 3, "b": 4}, 2, r"class 'b' .* has 2 images \(2 unreadable images were skipped\); 3 are needed"),
    ],
)
def test_too_few_images_after_skipping(tmp_path: Path, sizes: dict[str, int], n_bad: int, message: str) -> None:
    fill(tmp_path, sizes)
    (tmp_path / "a").mkdir(exist_ok=True)
    for index in range(n_bad):
        (tmp_path / "b" / f"{index:03}.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=message):
        load(tmp_path, on_bad_image="skip")


def test_files_without_an_image_extension_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "heif_is_read", lambda: False)
    fill(tmp_path, {"a": 3, "b": 3})
    for name in ("a/photo.HEIC", "b/photo.heic", "b/notes", "b/.DS_Store"):
        (tmp_path / name).touch()
    assert load(tmp_path).left_aside == {".heic": 2, "": 1}
    assert (
        "not images by their extension: 1 without extension, 2 .heic; HEIC is read once the extra heic" in caplog.text
    )


def test_unknown_choice_for_bad_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--on-bad-image must be error or skip, not 'ignore'"):
        load(tmp_path, on_bad_image="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["~nobody-of-that-name/photos", "x" * 300, "a\0b"])
def test_impossible_file_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_data(name, seed=0, cache_dir=tmp_path)
