"""Views of images are the same whenever they are requested, and unusable ones are refused."""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Transform, load_backbone
from sweep import LaneConfig, Study, UsageError
from sweep.data import Split, load_data
from sweep.features.cache import feature_key
from sweep.features.views import Augmentation, TrainingViews
from sweep.study.augmentation import PARTS, described, recipe

SIDE = 24
TRANSFORM = Transform(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def image_of(index: int) -> Image.Image:
    """An image of noise, 40 wide and 30 high, that differs for each index."""
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def split_of(opener: Callable[[int], Image.Image] = image_of, n_images: int = 12) -> Split:
    return Split("train", np.arange(n_images) % 3, opener, lambda: "fingerprint", lambda index: f"{index}.png")


def augmentation(name: str = "flip-crop-colour", seed: int = 0) -> Augmentation:
    return Augmentation(name, recipe(name, TRANSFORM.image_size, TRANSFORM.interpolation), seed)


def pixels(image: Image.Image) -> bytes:
    return image.tobytes()


def test_a_view_depends_on_seed_image_and_number_alone() -> None:
    split, ours = split_of(), augmentation()
    wanted = list(product(range(12), range(3)))
    views = {(i, v): pixels(ours.view(split, i, v)) for i, v in wanted}
    assert len(set(views.values())) == len(wanted), "each image and number gives a different view"
    random.Random(0).shuffle(wanted)
    with ThreadPoolExecutor(8) as pool:
        again = dict(zip(wanted, pool.map(lambda place: pixels(ours.view(split, *place)), wanted), strict=True))
    assert again == views
    other_seed = augmentation(seed=1)
    assert all(pixels(other_seed.view(split, i, v)) != view for (i, v), view in views.items())


def test_affine_moves_an_image_a_little_and_brings_no_empty_corners_into_view() -> None:
    image = Image.new("RGB", (40, 30), (200, 90, 40))
    image.paste((20, 30, 240), (18, 13, 22, 17))
    ours = augmentation("affine")
    centres = []
    for number in range(20):
        view = np.asarray(ours.view(split_of(lambda index: image), 0, number)).astype(int)
        assert view.shape == (30, 40, 3)
        border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
        assert np.abs(border - (200, 90, 40)).max() <= 1
        rows, columns = np.nonzero(view[..., 2] > 140)
        centres.append((rows.mean(), columns.mean()))
    spread = np.ptp(centres, axis=0)
    assert (spread > 1).all(), "the image must move"
    assert (np.abs(np.mean(centres, 0) - (14.5, 19.5)) < 1.5).all()
    assert (spread < (7, 9)).all(), "at most 7% to either side, plus what rotation and scaling add"


def test_global_random_states_neither_matter_nor_change() -> None:
    split, ours = split_of(), augmentation()
    expected = pixels(ours.view(split, 5, 2))
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
        assert pixels(ours.view(split, 5, 2)) == expected
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tobytes() == states[1]
        assert torch.equal(torch.get_rng_state(), states[2])


def test_a_flip_is_a_flip_and_a_crop_has_the_size_of_the_input() -> None:
    split, flip, crop = split_of(), augmentation("flip"), augmentation("crop")
    mirrored = set()
    for index in range(12):
        image, view = split.open(index), flip.view(split, index, 0)
        mirror = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert pixels(view) in (pixels(image), pixels(mirror))
        mirrored.add(pixels(view) == pixels(mirror))
        assert crop.view(split, index, 0).size == (SIDE, SIDE), "the backbone's transform has nothing left to resize"
    assert mirrored == {False, True}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
@pytest.mark.parametrize("name", PARTS)
def test_recipes_take_images_of_every_mode(mode: str, name: str) -> None:
    image = image_of(0).convert("L").convert("I").convert(mode) if mode == "I;16" else image_of(0).convert(mode)
    assert augmentation(name).view(split_of(lambda index: image), 0, 0).mode == "RGB"


def test_a_studys_own_function_may_use_any_random_library() -> None:
    def turned(image: Image.Image) -> Image.Image:
        angle = random.random() + np.random.rand() + torch.rand(1).item()
        return image.rotate(90 * angle)

    ours, split = Augmentation("own", turned, 0), split_of()
    assert pixels(ours.view(split, 3, 1)) == pixels(ours.view(split, 3, 1)) != pixels(ours.view(split, 3, 2))


class Drawn:
    """A data set that draws its images with the global random state, as torchvision's FakeData does."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        torch.manual_seed(index)
        parts = []
        for _ in range(16):
            time.sleep(1e-4)  # lets another thread draw in between
            parts.append(torch.randint(256, (2, 32, 3), dtype=torch.uint8).numpy())
        return Image.fromarray(np.concatenate(parts)), index % 2


def test_random_numbers_of_data_set_and_augmentation_are_independent(tmp_path: Path) -> None:
    split, ours = load_data({"all": Drawn()}, seed=0, cache_dir=tmp_path).train, augmentation()
    places = list(product(range(split.n_images), range(4)))
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda place: pixels(ours.view(split, *place)), places))
    assert together == [pixels(ours.view(split, *place)) for place in places]


def key(study: Study, split: Split, number: int) -> str:
    views = TrainingViews.of(study, split, TRANSFORM)
    return feature_key(load_backbone("tiny-untrained", cache_dir=Path()), views.split(split, number))


def study(**declared: object) -> Study:
    return Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={}, max_rank=1, **declared)  # type: ignore[arg-type]


def darker(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value * random.uniform(0.2, 0.8))


def test_the_cache_distinguishes_views() -> None:
    split = split_of()
    plain = key(study(), split, 0)
    assert plain == feature_key(load_backbone("tiny-untrained", cache_dir=Path()), split), "the key of existing entries"
    flip = study(augment="flip")
    keys = [
        plain,
        key(flip, split, 0),
        key(flip, split, 1),
        key(study(augment="flip", seed=1), split, 0),
        key(study(augment="crop"), split, 0),
        key(study(augment=darker), split, 0),
        key(study(augment=lambda image: darker(image).rotate(90)), split, 0),
    ]
    assert len(set(keys)) == len(keys)
    assert key(study(augment="flip", views=9), split, 1) == keys[2], "more views keep the existing ones"
    assert key(study(augment=darker), split, 0) == keys[5]


def test_the_declared_number_of_views_is_cached() -> None:
    split = split_of()

    def n_cached(**declared: object) -> int:
        views = TrainingViews.of(study(**declared), split, TRANSFORM)
        assert len(views.cached(split)) == views.n_cached
        return views.n_cached

    assert n_cached() == 1
    assert n_cached(augment="flip") == 4
    assert n_cached(augment="flip", views=2) == 2
    assert n_cached(cache="off") == n_cached(augment="flip", cache="off") == 0
    (whole,) = TrainingViews.of(study(), split, TRANSFORM).cached(split)
    assert whole is split
    view = TrainingViews.of(study(augment="flip"), split, TRANSFORM).split(split, 2)
    assert view.describe(1) == "image 1 of split 'train, view 3' (1.png)"
    assert view.labels is split.labels


def test_description_of_the_augmentation() -> None:
    for declared, words in (
        ({}, ""),
        ({"augment": "flip", "views": 3}, "flip, 3 cached views of every train image"),
        ({"augment": "flip"}, "flip, 4 cached views of every train image"),
        ({"augment": "flip", "cache": "off"}, "flip, fresh views in every epoch; cache off"),
        ({"cache": "off"}, "train images as they are; cache off"),
        ({"augment": darker, "views": 2}, "a function of the study file, 2 cached views of every train image"),
    ):
        assert described(study(**declared).declarations()) == words


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"augment": "flop"},
            "no augmentation 'flop': give flip, crop, colour, affine, or several of them such as",
        ),
        ({"augment": "flip-flip"}, "no augmentation 'flip-flip'"),
        ({"augment": ""}, "no augmentation ''"),
        ({"augment": 3}, "augment must be a recipe's name or a function of an image, not 3"),
        ({"augment": "flip", "views": 0}, r"views must be a whole number of at least 1, not 0 \(--views"),
        ({"augment": "flip", "views": True}, "not True"),
        ({"augment": "flip", "views": 2, "cache": "off"}, "views is 2 but cache is off.* leave --views out"),
        ({"cache": "of"}, r"cache must be 'on' or 'off', not 'of' \(--cache"),
    ],
)
def test_declarations_that_are_refused(declared: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        study(**declared)


def test_an_option_overrides_the_views_that_a_study_declares() -> None:
    ours = study(augment="flip", views=3)
    assert ours.override(augment="none").views is None
    assert ours.override(cache="off").views is None
    assert ours.override(augment="crop").views == 3
    with pytest.raises(UsageError, match="cache is off"):
        ours.override(cache="off", views=2)


def unrepeatable(image: Image.Image) -> Image.Image:
    return image.rotate(int.from_bytes(os.urandom(4), "big") % 360)


def failing(image: Image.Image) -> Image.Image:
    raise KeyError("size")


def tensor(image: Image.Image) -> Image.Image:
    return torch.zeros(3, 4, 4)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unrepeatable, r"the study's augment changes image 0 of split 'train' \(0\.png\) in another way every time"),
        (failing, rf"augment failed on image 0 .*: KeyError: 'size' \({__file__}, line \d+: raise KeyError"),
        (tensor, "the study's augment must return a Pillow image, not Tensor"),
    ],
)
def test_functions_that_are_refused(function: Callable[[Image.Image], Image.Image], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingViews.of(study(augment=function), split_of(), TRANSFORM)


def test_a_function_may_change_its_image_in_place() -> None:
    kept = image_of(0)

    def spoil(image: Image.Image) -> Image.Image:
        image.paste(0, (0, 0, 20, 20))
        return image

    view = Augmentation("spoil", spoil, 0).view(split_of(lambda index: kept), 0, 0)
    assert pixels(view) != pixels(kept) == pixels(image_of(0))
