"""Masks that are made of COCO's annotations: polygons, run lengths, overlaps, and every mistake in them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as package
from PIL import Image

from sweep.data import DataSet, load_data
from sweep.data.base import SkippedObject
from sweep.data.files import what_was_skipped
from sweep.data.regions import Region, mask_of_regions
from sweep.data.summary import summary
from sweep.errors import SweepError, UsageError

WIDTH, HEIGHT = SIZE = (12, 8)
CAT, DOG = 18, 5
"""Ids of categories. They are neither contiguous nor in order of name."""


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """A polygon whose pixels are those from `left` and `top` to before `right` and `bottom`."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def inside(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[top:bottom, left:right] = 1
    return pixels


def plain_run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    """Run lengths as whole numbers, column by column, beginning with those outside."""
    counts, value = [0], 0
    for pixel in pixels.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def compressed(pixels: np.ndarray) -> dict[str, Any]:
    encoded = package.encode(np.asfortranarray(pixels))
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


Object = tuple[int, Any, int]
"""Category, segmentation and `iscrowd`."""


def save(root: Path, objects: dict[str, list[Object]], file: str = "annotations.json") -> Path:
    """Save a folder of images with objects, given by name of the image."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    for name in objects:
        pixels = np.random.default_rng(list(name.encode())).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
    content = {
        "images": [
            {"id": place, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
            for place, name in enumerate(objects)
        ],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": place, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
            for place, own in enumerate(objects.values())
            for category, segmentation, crowd in own
        ],
    }
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(content))
    return root


OTHERS: dict[str, list[Object]] = {f"other{n}": [(CAT, rectangle(0, 0, 4, 4), 0)] for n in range(5)}


def read(root: Path, **options: Any) -> DataSet:
    return load_data(str(root), **{"seed": 0, "cache_dir": root.parent / "cache", "task": "segmentation", **options})


def mask_in(data: DataSet, name: str) -> np.ndarray:
    for split in (data.train, data.val, data.test):
        for index in range(split.n_images):
            if Path(split.source(index)).stem == name:
                assert split.masks is not None
                mask = split.masks(index)
                assert mask.size == split.open(index).size
                values = np.asarray(mask)
                counts = np.bincount(values[values < 255], minlength=data.n_classes)
                assert counts.tolist() == split.labels[index].tolist()
                return values
    raise AssertionError(f"no image {name}")


def mask_of(root: Path, objects: list[Object], **options: Any) -> np.ndarray:
    return mask_in(read(save(root, {"own": objects, **OTHERS}), **options), "own")


@pytest.mark.parametrize("form", [rectangle, lambda *box: compressed(inside(*box))])
def test_every_form_gives_the_pixels_of_the_object(tmp_path: Path, form: Callable[..., Any]) -> None:
    plain = plain_run_lengths(inside(6, 1, 9, 7))
    found = mask_of(tmp_path / "coco", [(DOG, form(1, 2, 4, 5), 0), (CAT, plain, 0)])
    assert np.array_equal(found, inside(1, 2, 4, 5) + 2 * inside(6, 1, 9, 7)), "background is 0, dog has the lower id"


def test_the_classes_are_the_background_and_the_categories(tmp_path: Path) -> None:
    data = read(save(tmp_path / "coco", OTHERS))
    assert (data.task, data.class_names) == ("segmentation", ("background", "dog", "cat"))
    assert "background" in summary(data)


def test_a_category_called_background_is_the_background(tmp_path: Path) -> None:
    root = save(
        tmp_path / "coco", {"own": [(DOG, rectangle(0, 0, 3, 3), 0), (CAT, rectangle(0, 0, 6, 6), 0)], **OTHERS}
    )
    path = root / "annotations.json"
    path.write_text(path.read_text().replace('"dog"', '"background"'))
    data = read(root)
    assert data.class_names == ("background", "cat")
    assert np.array_equal(mask_in(data, "own"), inside(0, 0, 6, 6) - inside(0, 0, 3, 3))


@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_object_is_on_top(tmp_path: Path, order: int) -> None:
    objects: list[Object] = [(DOG, rectangle(0, 0, 8, 8), 0), (CAT, rectangle(2, 2, 5, 5), 0)]
    found = mask_of(tmp_path / "coco", objects[::order])
    assert np.array_equal(found, inside(0, 0, 8, 8) + inside(2, 2, 5, 5))


def test_several_polygons_are_one_object(tmp_path: Path) -> None:
    polygons = [*rectangle(0, 0, 3, 3), *rectangle(2, 2, 5, 5)]
    assert np.array_equal(mask_of(tmp_path / "coco", [(DOG, polygons, 0)]), inside(0, 0, 3, 3) | inside(2, 2, 5, 5))


def test_a_crowd_has_no_label_where_no_object_is_on_top(tmp_path: Path) -> None:
    crowd = plain_run_lengths(inside(0, 0, 4, 4))
    found = mask_of(tmp_path / "coco", [(DOG, rectangle(3, 3, 9, 8), 0), (CAT, crowd, 1)])
    expected = np.where(inside(0, 0, 4, 4), 255, 0)
    expected[3:8, 3:9] = 1
    assert np.array_equal(found, expected)


def test_polygons_are_cut_off_at_the_edge(tmp_path: Path) -> None:
    found = mask_of(tmp_path / "coco", [(DOG, rectangle(-2, -1, 3, 3), 0), (CAT, rectangle(10, 6, 13.5, 9), 0)])
    assert np.array_equal(found, inside(0, 0, 3, 3) + 2 * inside(10, 6, 12, 8))


def test_pixels_of_polygons_are_those_of_the_package() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        polygons = [rng.uniform(-2, 14, 2 * rng.integers(3, 7)).tolist() for _ in range(rng.integers(1, 4))]
        region = Region.of(1, polygons, SIZE)
        expected = package.decode(package.frPyObjects(polygons, HEIGHT, WIDTH)).any(-1)
        assert np.array_equal(np.asarray(mask_of_regions([region], SIZE)), expected)
        assert region.n_pixels == expected.sum()


def test_run_lengths_give_back_what_was_encoded() -> None:
    rng = np.random.default_rng(0)
    for share in np.linspace(0, 1, 30):
        pixels = (rng.random((HEIGHT, WIDTH)) < share).astype(np.uint8)
        for encoded in (compressed(pixels), plain_run_lengths(pixels)):
            region = Region.of(1, encoded, SIZE)
            assert np.array_equal(np.asarray(mask_of_regions([region], SIZE)), pixels)
            assert region.n_pixels == pixels.sum()


def test_splits_as_given(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    for split, n_images in (("train", 5), ("val", 2), ("test", 3)):
        objects: dict[str, list[Object]] = {f"{split}{n}": [(DOG, rectangle(0, 0, 3, 3), 0)] for n in range(n_images)}
        save(root, objects, f"annotations/instances_{split}2017.json")
    data = read(root)
    assert [split.n_images for split in (data.train, data.val, data.test)] == [5, 2, 3]
    assert np.array_equal(mask_in(data, "val1"), inside(0, 0, 3, 3))
    assert read(root, seed=None).test.n_images == 3


def test_without_a_task_boxes_are_read(tmp_path: Path) -> None:
    root = save(tmp_path / "coco", OTHERS)
    path = root / "annotations.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 0, "bbox": [0, 0, 4, 4]'))
    assert read(root, task=None).task == "detection"
    assert read(root).task == "segmentation"


def test_a_changed_object_changes_the_fingerprint_of_its_split(tmp_path: Path) -> None:
    before = read(save(tmp_path / "coco", OTHERS))
    changed = Path(before.test.source(0)).stem
    objects = {name: [(DOG, *own[0][1:])] if name == changed else own for name, own in OTHERS.items()}
    after = read(save(tmp_path / "coco", objects))
    assert after.train.fingerprint == before.train.fingerprint
    assert after.test.fingerprint != before.test.fingerprint


FAULTY: list[tuple[Any, str]] = [
    (None, r"has no 'segmentation', which its mask is made of"),
    ([], r"has no 'segmentation'"),
    ("long", r"has the 'segmentation' 'long', neither polygons nor run lengths"),
    ([[1, 1, 5, 5]], r"has a polygon of 2 points, and it needs 3"),
    ([[1, 1, 5, 5, 3, 3, 3]], r"has a polygon of 7 numbers, and a point has two"),
    ([[1, 1, 5, "5", 3, 3]], r"has the polygon \[1, 1, 5, '5', 3, 3\], which is no list of finite numbers"),
    ([[1, 1, float("nan"), 5, 3, 3]], r"has the polygon .* which is no list of finite numbers"),
    ([[1, 1, 10**400, 5, 3, 3]], r"has the polygon .* which is no list of finite numbers"),
    ([3], r"has the polygon 3, which is no list"),
    (rectangle(12, 1, 15, 4), r"is outside of its image, which has 12 x 8 pixels"),
    (rectangle(1, 1, 1000, 4), r"has a point at 1000 1, far outside of its image"),
    (
        {"size": [12, 8], "counts": [96]},
        r"has run lengths of the size \[12, 8\] \(height, width\), but .* 12 x 8 pixels",
    ),
    ({"counts": [96]}, r"has run lengths of the size None"),
    ({"size": [8, 12], "counts": [90]}, r"has run lengths of 90 pixels, but its image has 12 x 8, which are 96"),
    ({"size": [8, 12], "counts": [100, -4]}, r"has run lengths of 96 pixels"),
    ({"size": [8, 12], "counts": [96.0]}, r"has the run lengths \[96\.0\], neither text nor whole numbers"),
    ({"size": [8, 12], "counts": "zzzzzzzz"}, r"has a 'segmentation' that cannot be read as 12 x 8 pixels: "),
    ({"size": [8, 12], "counts": "ä"}, r"has a 'segmentation' that cannot be read as 12 x 8 pixels: "),
    ({"size": [8, 12], "counts": "P"}, r"has a 'segmentation' that cannot be read as 12 x 8 pixels: .*malformed"),
    ({"size": [8, 12]}, r"has the run lengths None, neither text nor whole numbers"),
]


@pytest.mark.parametrize(("segmentation", "said"), FAULTY)
def test_an_object_that_cannot_be_used(tmp_path: Path, segmentation: Any, said: str) -> None:
    objects: list[Object] = [(CAT, segmentation, 0), (DOG, rectangle(2, 2, 5, 5), 0)]
    root = save(tmp_path / "coco", {"own": objects, **OTHERS})
    where = rf"annotations\.json, images\[0\]: annotations\[0\] \(cat\) {said}"
    with pytest.raises(SweepError, match=rf"(?s){where}.* leave it out with --on-bad-image skip"):
        read(root)
    data = read(root, on_bad_image="skip")
    assert np.array_equal(mask_in(data, "own"), inside(2, 2, 5, 5))
    (skipped,) = data.skipped
    assert isinstance(skipped, SkippedObject)
    assert re.match(rf"annotations\[0\] \(cat\) {said}", skipped.reason)
    assert what_was_skipped(data.skipped) == "1 object"


def test_the_box_of_an_object_that_is_left_out_has_no_label(tmp_path: Path) -> None:
    root = save(tmp_path / "coco", {"own": [(CAT, [[1, 1]], 0), (DOG, rectangle(2, 2, 5, 5), 0)], **OTHERS})
    path = root / "annotations.json"
    path.write_text(path.read_text().replace("[[1, 1]]", '[[1, 1]], "bbox": [1, 1, 3, 3]'))
    expected = np.where(inside(1, 1, 4, 4), 255, 0)
    expected[2:5, 2:5] = 1
    assert np.array_equal(mask_in(read(root, on_bad_image="skip"), "own"), expected)


def test_all_objects_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    root = save(tmp_path / "coco", {"a": [(CAT, [], 0)], "b": [(DOG, [[1, 1]], 0)], **OTHERS})
    with pytest.raises(
        SweepError, match=r"(?s)cannot use 2 objects:.*annotations\[0\].*annotations\[1\].*or remove them"
    ):
        read(root)


def test_an_image_of_another_size_and_one_without_labels(tmp_path: Path) -> None:
    root = save(tmp_path / "coco", {"own": [(CAT, rectangle(0, 0, 12, 8), 1)], **OTHERS})
    with pytest.raises(UsageError, match=r"no pixel of the mask of .*images\[0\] \(.*own\.png\) has a label"):
        read(root)
    path = root / "annotations.json"
    path.write_text(path.read_text().replace('"width": 12', '"width": 13', 1))
    with pytest.raises(SweepError, match=r"images\[0\]: it says that .*own\.png has 13 x 8 pixels"):
        read(root)
    assert what_was_skipped(read(root, on_bad_image="skip").skipped) == "1 unreadable image"


def test_too_many_categories(tmp_path: Path) -> None:
    root = save(tmp_path / "coco", OTHERS)
    content = json.loads((root / "annotations.json").read_text())
    content["categories"] += [{"id": 1000 + number, "name": f"thing{number}"} for number in range(253)]
    (root / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"has 255 categories, and a mask can have 254 of them"):
        read(root)
