"""Masks and boxes move with their images: the change is drawn once, and labels are those of what the image shows."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from backbones import Transform, load_backbone
from sweep import LaneConfig, Study, UsageError
from sweep.data import Split
from sweep.data.boxes import Boxes, moved_boxes
from sweep.data.masks import moved_mask
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.features.labels import labels_for
from sweep.features.training_data import CachedViews, LiveViews, training_data
from sweep.features.views import Augmentation, TrainingViews
from sweep.machine.seeds import seeded
from sweep.study.augmentation import PARTS, Move, recipe
from sweep.tasks.kinds import DETECTION, SEGMENTATION
from sweep.tasks.targets import Target

WIDTH, HEIGHT = SIZE = (60, 44)
SIDE = 48
TRANSFORM = Transform(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RECIPES = [*PARTS, "flip-crop", "affine-crop-flip", "crop-colour-affine"]
RED, BLUE = (230, 20, 20), (20, 20, 230)


def drawn(index: int) -> tuple[Image.Image, np.ndarray, tuple[int, int, int, int]]:
    """An image with a red and a blue rectangle, its mask, and the corners of the red one."""
    rng = np.random.default_rng(index)
    left, top = rng.integers(0, 30), rng.integers(0, 20)
    right, bottom = left + rng.integers(14, 30), top + rng.integers(14, 24)
    image, mask = Image.new("RGB", SIZE, (90, 90, 90)), np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    image.paste(BLUE, (WIDTH - 20, HEIGHT - 12, WIDTH, HEIGHT))
    mask[HEIGHT - 12 :, WIDTH - 20 :] = 2
    image.paste(RED, (int(left), int(top), int(right), int(bottom)))
    mask[top:bottom, left:right] = 1
    return image, mask, (int(left), int(top), int(right), int(bottom))


def boxes_of(index: int) -> Boxes:
    return Boxes(SIZE, np.array([0]), np.array([drawn(index)[2]], dtype=np.float64), np.array([False]))


def split_of(n_images: int = 8, *, with_boxes: bool = False) -> Split:
    labels = np.stack([np.bincount(drawn(index)[1].ravel(), minlength=3) for index in range(n_images)])
    split = Split("train", labels, lambda index: drawn(index)[0], lambda: "fingerprint")
    if with_boxes:
        return replace(split, labels=np.ones((n_images, 1), dtype=np.int64), boxes=boxes_of, most_boxes=1)
    return replace(split, masks=lambda index: Image.fromarray(drawn(index)[1]))


def augmentation(name: str) -> Augmentation:
    return Augmentation(name, recipe(name, SIDE, TRANSFORM.interpolation), 0)


def classes_shown(view: Image.Image) -> np.ndarray:
    """The class of each pixel by its colour, relative to the brightest part; colours of a view may be changed."""
    red, green, blue = np.moveaxis(np.asarray(view).astype(int), -1, 0)
    return np.where(red > blue + 60, 1, np.where(blue > red + 60, 2, 0)) * (green < 128)


def test_a_recipe_changes_images_as_torchvision_does() -> None:
    shift = 0.07 / 1.4
    affine = v2.RandomAffine(8, (shift, shift), (0.9, 1.1), 5, interpolation=InterpolationMode.BILINEAR)

    def moved(image: Image.Image) -> Image.Image:
        margin = [round(0.2 * side) for side in image.size]
        framed = affine(v2.functional.pad(image, margin, padding_mode="edge"))
        return v2.functional.center_crop(framed, [image.height, image.width])

    parts: dict[str, Callable[[Image.Image], Image.Image]] = {
        "flip": v2.RandomHorizontalFlip(),
        "crop": v2.RandomResizedCrop(SIDE, scale=(0.5, 1.0), interpolation=InterpolationMode(TRANSFORM.interpolation)),
        "colour": v2.ColorJitter(0.2, 0.2, 0.2),
        "affine": moved,
    }
    for name in RECIPES:
        ours = recipe(name, SIDE, TRANSFORM.interpolation)
        for index in range(6):
            expected = drawn(index)[0]
            with seeded(index):
                for part in name.split("-"):
                    expected = parts[part](expected)
            with seeded(index):
                assert ours(drawn(index)[0]).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", RECIPES)
def test_the_mask_of_a_view_is_that_of_what_it_shows(name: str) -> None:
    split, ours = split_of(), augmentation(name)
    for index in range(split.n_images):
        for number in range(3):
            view = ours.view(split, index, number)
            places = ours.places(split, number)
            assert places.masks is not None
            mask = places.masks(index)
            assert (mask.mode, mask.size) == ("L", view.size)
            labels = np.asarray(mask)
            wrong = (labels != classes_shown(view)) & (labels != 255)
            if name in ("flip", "colour"):
                assert not wrong.any()
            inner = np.zeros_like(wrong)  # pixels whose neighbours are of the same class; others are blurred
            inner[2:-2, 2:-2] = np.all(
                [
                    labels[2:-2, 2:-2] == np.roll(labels, (y, x), (0, 1))[2:-2, 2:-2]
                    for y in (-2, 0, 2)
                    for x in (-2, 0, 2)
                ],
                axis=0,
            )
            assert not (wrong & inner).any()
            assert inner.mean() > 0.4
            assert (labels == 255).any() <= ("affine" in name)


def test_pixels_outside_of_the_image_have_no_label() -> None:
    moved = np.asarray(
        moved_mask(Image.fromarray(drawn(0)[1]), [Move(np.array([[1.0, 0, 5], [0, 1, -3], [0, 0, 1]]), SIZE)])
    )
    assert (moved[:, :5] == 255).all()
    assert (moved[-3:] == 255).all()
    assert np.array_equal(moved[:-3, 5:], drawn(0)[1][3:, :-5])


def test_what_a_move_leaves_outside_stays_outside() -> None:
    away, back = (Move(np.array([[1.0, 0, x], [0, 1, 0], [0, 0, 1]]), SIZE) for x in (-20, 20))
    moved = np.asarray(moved_mask(Image.fromarray(drawn(0)[1]), [away, back]))
    assert (moved[:, :20] == 255).all()
    assert np.array_equal(moved[:, 20:], drawn(0)[1][:, 20:])
    box = Boxes(SIZE, np.array([0]), np.array([[10.0, 0, 30, 10]]), np.array([False]))
    found = moved_boxes(box, [away, back])
    assert (found.corners.tolist(), found.ignored.tolist()) == ([[20, 0, 30, 10]], [False])
    again = moved_boxes(box, [away, back, Move(np.array([[1.0, 0, -26], [0, 1, 0], [0, 0, 1]]), SIZE)])
    assert (again.corners.tolist(), again.ignored.tolist()) == ([[0, 0, 4, 10]], [True]), "a fifth of the whole is left"


def test_a_palette_does_not_matter() -> None:
    mask = Image.fromarray(drawn(1)[1])
    with_palette = mask.copy()
    with_palette.putpalette([255 - number for number in range(256) for _ in range(3)])
    moves = recipe("flip-crop", SIDE, "bicubic").moves(SIZE)
    assert moved_mask(mask, moves).tobytes() == moved_mask(with_palette, moves).tobytes()


@pytest.mark.parametrize("name", RECIPES)
def test_the_box_of_a_view_is_around_the_moved_object(name: str) -> None:
    n_images, n_boxes, ours = 12, 0, augmentation(name)
    for index, number in product(range(n_images), range(3)):
        of_masks, of_boxes = (ours.places(split_of(n_images, with_boxes=which), number) for which in (False, True))
        assert of_masks.masks is not None
        assert of_boxes.boxes is not None
        boxes = of_boxes.boxes(index)
        mask = of_masks.masks(index)
        assert boxes.size == mask.size == ours.view(of_boxes, index, number).size
        rows, columns = np.nonzero(np.asarray(mask) == 1)
        assert len(boxes) or not len(rows)
        if not len(rows):
            continue
        shown = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        outwards = (shown - boxes.corners[0]) * (1, 1, -1, -1)  # by how much the box is larger on each side
        loose = 0 if name in ("flip", "colour") else 1
        assert (outwards >= -loose).all()
        assert (outwards <= (6 if "affine" in name and "crop" in name else loose)).all(), "a box goes around a cut box"
        n_boxes += 1
    assert n_boxes > 30


def test_boxes_are_cut_off_ignored_or_left_out() -> None:
    corners = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [40, 10, 60, 20], [30, 0, 50, 10]], dtype=np.float64)
    boxes = Boxes(SIZE, np.array([0, 1, 2, 3]), corners, np.array([True, False, False, False]))
    moved = moved_boxes(boxes, [Move(np.array([[1.0, 0, -36], [0, 1, 0], [0, 0, 1]]), (20, 44))])
    assert moved.classes.tolist() == [1, 2, 3], "the first is outside"
    assert moved.corners.tolist() == [[0, 20, 4, 40], [4, 10, 20, 20], [0, 0, 14, 10]]
    assert moved.ignored.tolist() == [True, False, False], "a fifth is left of one, and 0.8 and 0.7 of the others"
    assert moved_boxes(boxes, [Move(np.eye(3), SIZE)]).ignored.tolist() == [True, False, False, False]
    nothing = Boxes(SIZE, np.zeros(0, dtype=np.int64), np.zeros((0, 4)), np.zeros(0, dtype=np.bool_))
    assert len(moved_boxes(nothing, [Move(np.eye(3), SIZE)])) == 0


def contents() -> list[str]:
    found = []
    for with_boxes in (False, True):
        split = split_of(4, with_boxes=with_boxes)
        for number in range(2):
            places = augmentation("flip-crop-affine").places(split, number)
            for index in range(4):
                content = places.boxes(index).content() if places.boxes else places.masks(index).tobytes()  # type: ignore[misc]
                found.append(content.hex())
    return found


def test_places_are_the_same_in_threads() -> None:
    expected = contents()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: contents(), range(3))) == [expected] * 3


def declared(**options: object) -> Study:
    return Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={}, max_rank=1, **options)  # type: ignore[arg-type]


def test_a_function_of_the_study_file_is_refused() -> None:
    for with_boxes, places in ((False, "masks"), (True, "boxes")):
        with pytest.raises(UsageError, match=rf"changes images and not their {places}; give the name of a recipe"):
            TrainingViews.of(declared(augment=lambda image: image), split_of(with_boxes=with_boxes), TRANSFORM)


@pytest.mark.parametrize("with_boxes", [False, True])
@pytest.mark.parametrize("augment", ["flip-crop", "none"])
def test_cached_and_live_views_have_the_labels_of_the_view(tmp_path: Path, augment: str, with_boxes: bool) -> None:
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)
    split = split_of(9, with_boxes=with_boxes)
    target = Target(DETECTION if with_boxes else SEGMENTATION)
    n_classes = 1 if with_boxes else 3

    def stages_of(view: Split) -> StageData:
        return compute_features(backbone, view, cache_dir=tmp_path).as_data(n_classes, target)

    made = {}
    for cache in ("on", "off"):
        views = TrainingViews.of(declared(augment=augment, cache=cache), split, backbone.transform)
        made[cache] = training_data(
            views, [split], stages_of, backbone=backbone, device=torch.device("cpu"), n_classes=n_classes, target=target
        )
    held, live = made["on"], made["off"]
    assert isinstance(held, CachedViews)
    assert isinstance(live, LiveViews)
    assert torch.equal(held.class_counts, live.class_counts)
    like, all_of_them = torch.zeros(1), [torch.arange(9)]
    of_orders = []
    for order in (1, 3):
        (expected,), (found,) = held.batches(order, all_of_them, like), live.batches(order, all_of_them, like)
        assert torch.equal(found[1], expected[1])
        assert all(torch.equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
        view = TrainingViews.of(declared(augment=augment), split, backbone.transform).split(split, order - 1)
        assert torch.equal(labels_for(backbone, view), labels_for(backbone, view, range(9)))
        assert torch.equal(found[1], target.encode(labels_for(backbone, view), like))
        of_orders.append(found[1])
        (of_stage,) = live.of_stages([1]).batches(order, all_of_them, like)
        assert len(of_stage[0]) == 1
        assert torch.equal(of_stage[0][0], found[0][1])
    assert torch.equal(*of_orders) == (augment == "none")
