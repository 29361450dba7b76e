"""Folders of images and masks: how they are read, and the error for each mistake in them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones.grid import label_map
from backbones.protocol import Transform
from sweep.data import load_data
from sweep.data.summary import summary
from sweep.errors import SweepError, UsageError

SIZE = (12, 10)


def save(root: Path, name: str, values: np.ndarray | None = None, mode: str = "L") -> None:
    """Save an image and its mask."""
    rng = np.random.default_rng(len(name))
    for folder in ("images", "masks"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (*SIZE[::-1], 3), dtype=np.uint8)).save(root / "images" / f"{name}.jpg")
    mask = rng.integers(0, 3, SIZE[::-1]) if values is None else values
    image = Image.fromarray(np.asarray(mask, dtype=np.uint8))
    if mode == "P":
        image.putpalette([255 - number for number in range(256) for _ in range(3)])
    image.save(root / "masks" / f"{name}.png")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    root = tmp_path / "scenes"
    for number in range(10):
        save(root, f"{'deep/' if number % 2 else ''}scene{number}", mode="P" if number % 3 else "L")
    return root


def read(root: Path, cache_dir: Path, **options: object):  # type: ignore[no-untyped-def]
    return load_data(str(root), **{"seed": 0, "cache_dir": cache_dir, **options})  # type: ignore[arg-type]


def test_masks_belong_to_the_images_of_the_same_name(scenes: Path, tmp_path: Path) -> None:
    data = read(scenes, tmp_path)
    assert data.task == "segmentation"
    assert data.class_names == ("0", "1", "2")
    assert (data.train.n_images, data.val.n_images, data.test.n_images) == (6, 2, 2)
    for split in (data.train, data.val, data.test):
        for index in range(split.n_images):
            image = Path(split.source(index))
            mask = np.asarray(Image.open(scenes / "masks" / image.relative_to(scenes / "images").with_suffix(".png")))
            assert np.array_equal(np.asarray(split.masks(index)), mask)
            assert split.labels[index].tolist() == np.bincount(mask.ravel(), minlength=3).tolist()
    assert "train 6, val 2, test 2" in summary(data)


@pytest.mark.parametrize("above", [True, False])
def test_splits_as_given(tmp_path: Path, above: bool) -> None:
    root = tmp_path / "given"
    for split, number in (("train", 5), ("valid", 2), ("test", 3)):
        for i in range(number):
            save(root / split if above else root, f"{i}" if above else f"{split}/{i}")
    data = read(root, tmp_path)
    assert (data.train.n_images, data.val.n_images, data.test.n_images) == (5, 2, 3)
    assert read(root, tmp_path, seed=7).train.fingerprint == data.train.fingerprint


def test_names_of_classes(scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (scenes / "classes.txt").write_text("sky\nstreet\n\ncar\nbicycle\n", encoding="utf-8")
    assert read(scenes, tmp_path).class_names == ("sky", "street", "car", "bicycle")
    assert "bicycle, so it cannot be learned" in caplog.text


def test_a_changed_mask_changes_the_fingerprint(scenes: Path, tmp_path: Path) -> None:
    before = read(scenes, tmp_path)
    mask = np.zeros(SIZE[::-1])
    mask[0, 0] = 1
    for number in range(10):
        save(scenes, f"{'deep/' if number % 2 else ''}scene{number}", mask)
    after = read(scenes, tmp_path)
    assert before.train.fingerprint != after.train.fingerprint


def lost(root: Path) -> None:
    (root / "masks" / "scene0.png").unlink()


def of_another_size(root: Path) -> None:
    Image.new("L", (5, 6)).save(root / "masks" / "scene0.png")


def in_colours(root: Path) -> None:
    Image.new("RGB", SIZE, "red").save(root / "masks" / "scene0.png")


def without_labels(root: Path) -> None:
    Image.new("L", SIZE, 255).save(root / "masks" / "scene0.png")


def of_two_values(root: Path) -> None:
    for path in (root / "masks").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 2 * 255).save(path)


def too_few_names(root: Path) -> None:
    (root / "classes.txt").write_text("sky\nstreet\n")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lost, r"1 of 10 images .* have no mask, such as .*scene0.jpg; put it at .*scene0.png"),
        (of_another_size, r"scene0.png: it has 5 x 6 pixels, but its image .* has 12 x 10"),
        (in_colours, r"scene0.png: it has colours \(mode RGB\)"),
        (without_labels, r"no pixel of the mask .*scene0.png has a label"),
        (of_two_values, r"If 255 stands for a class, save it as 1"),
        (too_few_names, r"has the value 2, but there are 2 classes"),
    ],
)
def test_mistakes_are_named(scenes: Path, tmp_path: Path, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    spoil(scenes)
    with pytest.raises(SweepError, match=said):
        read(scenes, tmp_path)


def test_bad_masks_are_skipped_on_request(scenes: Path, tmp_path: Path) -> None:
    of_another_size(scenes)
    data = read(scenes, tmp_path, on_bad_image="skip")
    assert [Path(skipped.path).name for skipped in data.skipped] == ["scene0.png"]
    assert data.train.n_images + data.val.n_images + data.test.n_images == 9


def test_segmentation_is_refused_without_masks(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"needs a folder with images/ and masks/.*photos is not one"):
        read(photos, tmp_path, task="segmentation")
    with pytest.raises(UsageError, match=r"not segmentation; .* or give --data a folder with images/ and masks/"):
        read("count", tmp_path, task="segmentation")


@pytest.mark.parametrize("crop_pct", [None, 1.0, 0.8])
@pytest.mark.parametrize("size", [(90, 60), (60, 60), (50, 83), (300, 20)])
def test_label_maps_show_what_the_backbone_sees(crop_pct: float | None, size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[: size[1], : size[0]]
    mask = Image.fromarray((40 * (columns // 9 % 3) + 20 * (rows // 7 % 2)).astype(np.uint8))
    transform = Transform(48, (0.0,) * 3, (1.0,) * 3, interpolation="nearest", crop_pct=crop_pct)
    seen = np.rint(transform(mask)[0].numpy() * 255)
    labels = label_map(mask, transform, 48)
    assert labels.shape == (48, 48)
    assert (labels == seen).mean() > 0.9, "apart from edges, where sizes are rounded to whole pixels"
    same_place = label_map(Image.fromarray(columns.astype(np.uint8)), transform, 48)[24, 24]
    assert abs(int(same_place) - (size[0] - 1) / 2) <= 2 + size[0] / 48, "the centre stays the centre"
