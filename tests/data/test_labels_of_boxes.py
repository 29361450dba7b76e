"""Boxes of a split, and as the backbone sees them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones import load_backbone
from backbones.protocol import Transform
from sweep.data import Split
from sweep.data.boxes import Boxes, box_rows, in_pixels
from sweep.features.labels import labels_for

SIZE = (200, 100)


def boxes_of(*rows: tuple[int, float, float, float, float], ignored: tuple[int, ...] = ()) -> Boxes:
    return Boxes(
        SIZE,
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.isin(np.arange(len(rows)), ignored),
    )


OF_IMAGES = (
    boxes_of((1, 20, 10, 68, 90), (0, 90, 0, 110, 50), (2, 0, 0, 50, 100), ignored=(1,)),
    boxes_of(),
    boxes_of((0, 0, 0, 70, 100)),
)


def split_of(name: str, of_images: tuple[Boxes, ...]) -> Split:
    return Split(
        name,
        np.stack([own.counts(3) for own in of_images]),
        lambda index: Image.new("RGB", SIZE),
        lambda: name,
        boxes=of_images.__getitem__,
        most_boxes=3,
    )


def test_parts_and_joined_splits_keep_their_boxes() -> None:
    split = split_of("train", OF_IMAGES)
    assert split.labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]], "ignored boxes are not counted"
    part = split.only([2, 0], "some")
    joined = part.joined(replace(split_of("val", OF_IMAGES[:1]), most_boxes=7))
    assert part.boxes is not None
    assert joined.boxes is not None
    assert part.boxes(0) is OF_IMAGES[2]
    assert [joined.boxes(index) for index in range(3)] == [OF_IMAGES[2], OF_IMAGES[0], OF_IMAGES[0]]
    assert (part.most_boxes, joined.most_boxes) == (3, 7)


def test_rows_of_a_squashed_image_are_fractions_of_it() -> None:
    rows = box_rows(OF_IMAGES[0], (0.0, 0.0, 200.0, 100.0), 4)
    expected = [[1, 0.1, 0.1, 0.34, 0.9, 0], [0, 0.45, 0, 0.55, 0.5, 1], [2, 0, 0, 0.25, 1, 0], [-1, 0, 0, 0, 0, 0]]
    assert rows.dtype == np.float32
    assert rows == pytest.approx(np.array(expected))


def test_what_is_outside_the_square_is_cut_off() -> None:
    square = (50.0, 0.0, 150.0, 100.0)
    rows = box_rows(OF_IMAGES[0], square, 3)
    assert rows[0] == pytest.approx([1, 0, 0.1, 0.18, 0.9, 0]), "18 of 48 are more than a quarter"
    assert rows[1] == pytest.approx([0, 0.4, 0, 0.6, 0.5, 1])
    assert rows[2] == pytest.approx([-1, 0, 0, 0, 0, 0]), "nothing is left of a box that ends where the square begins"
    ignored = box_rows(boxes_of((0, 0, 0, 62, 100)), square, 1)
    assert ignored[0] == pytest.approx([0, 0, 0, 0.12, 1, 1]), "12 of 62 are less than a quarter"


@pytest.mark.parametrize("crop_pct", [None, 1.0, 0.8])
def test_rows_show_what_the_backbone_sees(crop_pct: float | None) -> None:
    pixels = np.zeros((100, 200), dtype=np.uint8)
    pixels[20:60, 80:120] = 255
    transform = Transform(64, (0.0,) * 3, (1.0,) * 3, interpolation="bilinear", crop_pct=crop_pct)
    seen = transform(Image.fromarray(pixels))[0].numpy() > 0.5
    own = boxes_of((0, 80, 20, 120, 60))
    box = transform.seen_box(*own.size)
    rows = box_rows(own, box, 1)
    places = np.argwhere(seen)
    top, left, bottom, right = *places.min(0), *(places.max(0) + 1)
    assert rows[0, 1:5] * 64 == pytest.approx([left, top, right, bottom], abs=1)
    assert in_pixels(rows[:, 1:5], box) == pytest.approx(own.corners, abs=1e-4)


def test_labels_have_as_many_rows_in_every_split(cache_dir: Path) -> None:
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=cache_dir)
    labels = labels_for(backbone, split_of("val", OF_IMAGES[1:]))
    assert labels.shape == (2, 3, 6)
    assert labels[0, :, 0].tolist() == [-1, -1, -1]
    assert labels[1, 0].tolist()[0] == 0
    without = replace(split_of("test", OF_IMAGES[1:2]), most_boxes=0)
    assert labels_for(backbone, without).shape == (1, 1, 6)
