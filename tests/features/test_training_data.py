"""What a stack trains on: cached views in turn, or the same features computed when needed, once for all lanes."""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from sweep import LaneConfig, Study, SweepError
from sweep.data import DataSet, Split, load_data
from sweep.features.batches import StageData, training_batches
from sweep.features.cache import compute_features
from sweep.features.resident import DeviceRoom
from sweep.features.training_data import POOLED_VIEWS, CachedViews, LiveViews, in_room, training_data
from sweep.features.views import TrainingViews
from sweep.side_networks.spec import SideNetworkSpec
from sweep.training.engine import Lane, Training

LIKE = torch.zeros(1)
CPU = torch.device("cpu")


@pytest.fixture
def backbone(tmp_path: Path) -> FrozenBackbone:
    return load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)


@pytest.fixture
def data(drawn_images: Path, tmp_path: Path) -> DataSet:
    return load_data(str(drawn_images), seed=0, cache_dir=tmp_path)


def data_of(backbone: FrozenBackbone, data: DataSet, folder: Path, splits: list[Split], **declared: object) -> object:
    study = Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={}, max_rank=1, **declared)  # type: ignore[arg-type]
    views = TrainingViews.of(study, data.train, backbone.transform)

    def stages_of(split: Split) -> StageData:
        return compute_features(backbone, split, cache_dir=folder).as_data(data.n_classes)

    return training_data(views, splits, stages_of, backbone=backbone, device=CPU, n_classes=data.n_classes)


Maker = Callable[..., object]


@pytest.fixture
def made(backbone: FrozenBackbone, data: DataSet, tmp_path: Path) -> Maker:
    """Return a function that makes training data for given declarations."""
    return lambda splits=(data.train,), **declared: data_of(backbone, data, tmp_path, list(splits), **declared)


def cached(made: Maker, n_views: int, **options: object) -> CachedViews:
    found = made(augment="flip-crop", views=n_views, **options)
    assert isinstance(found, CachedViews)
    return found


def live(made: Maker, augment: str = "flip-crop", **options: object) -> LiveViews:
    found = made(augment=augment, cache="off", **options)
    assert isinstance(found, LiveViews)
    return found


def same(found: tuple[list[Tensor], Tensor], expected: tuple[list[Tensor], Tensor]) -> bool:
    pairs = zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True)
    return all(torch.equal(a, b) and a.dtype == b.dtype and a.is_contiguous() == b.is_contiguous() for a, b in pairs)


def in_places(n_images: int) -> list[Tensor]:
    """The batches in which the cache computes features."""
    return list(torch.arange(n_images).split(32))


def test_cached_views_take_turns(made: Maker, backbone: FrozenBackbone, data: DataSet) -> None:
    found = cached(made, 3)
    indices = torch.tensor([7, 0, 20])
    for order in (1, 2, 3, 4, 7):
        (batch,) = found.batches(order, [indices], LIKE)
        view = found.views[(order - 1) % 3]
        assert same(batch, view.batch(indices, LIKE))
    assert not np.array_equal(found.views[0].stages[:], found.views[1].stages[:])
    views = TrainingViews.of(
        Study(suggest=lambda trial: LaneConfig(lr=1.0), baseline={}, max_rank=1, augment="flip-crop"),
        data.train,
        backbone.transform,
    )
    second = views.split(data.train, 1)
    images = torch.stack([backbone.transform(second.open(index)) for index in range(32)])
    expected = torch.stack(backbone.stages(images), 1).half().numpy()
    np.testing.assert_array_equal(found.views[1].stages[:32], expected)
    assert torch.equal(found.class_counts, torch.bincount(torch.from_numpy(data.train.labels)))
    assert len(found) == data.train.n_images


@pytest.mark.parametrize("augment", ["flip-crop", "none"])
@pytest.mark.parametrize("name", ["tiny-untrained", "untrained:resnet18"])
def test_live_features_are_those_that_the_cache_would_hold(
    augment: str, name: str, data: DataSet, tmp_path: Path
) -> None:
    backbone = load_backbone(name, group_size=2, image_size=32, cache_dir=tmp_path)
    made = partial(data_of, backbone, data, tmp_path, [data.train])
    held = made(augment=augment, views=5 if augment != "none" else None)
    fresh = live(made, augment)
    batches = in_places(len(fresh))
    assert isinstance(held, CachedViews)
    assert len(fresh) == len(held) > 32
    assert torch.equal(fresh.class_counts, held.class_counts)
    for order in (1, 5):
        found, expected = list(fresh.batches(order, batches, LIKE)), list(held.batches(order, batches, LIKE))
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
    tokens = slice(1, None) if name == "tiny-untrained" else slice(None)
    for pooled, wanted in zip(fresh.pooled(tokens).views, held.pooled(tokens).views, strict=False):
        np.testing.assert_array_equal(pooled.stages[:], wanted.stages[:])
        assert torch.equal(pooled.labels, wanted.labels)
    assert len(fresh.pooled(tokens).views) == (POOLED_VIEWS if augment != "none" else 1)


def test_every_data_order_has_a_view_of_its_own(made: Maker) -> None:
    fresh = live(made)
    indices = in_places(len(fresh))[:1]
    stages = [next(fresh.batches(order, indices, LIKE))[0][0] for order in range(1, 8)]
    assert all(not torch.equal(a, b) for i, a in enumerate(stages) for b in stages[:i])


def test_two_splits_are_joined_in_order(made: Maker, data: DataSet) -> None:
    splits = [data.train, data.val]
    held, fresh = cached(made, 2, splits=splits), live(made, splits=splits)
    n_images = data.train.n_images + data.val.n_images
    assert len(held) == len(fresh) == n_images
    alone = cached(made, 2, splits=[data.val]).views[1]
    (batch,) = held.batches(2, [torch.arange(data.train.n_images, n_images)], LIKE)
    assert same(batch, alone.batch(torch.arange(data.val.n_images), LIKE))
    (found,) = fresh.batches(2, [torch.arange(data.train.n_images, n_images)], LIKE)
    for a, b in zip(found[0], batch[0], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)
    assert torch.equal(found[1], batch[1])


@pytest.mark.parametrize("n_lanes", [1, 2, 5])
def test_one_forward_serves_all_lanes_of_a_step(
    n_lanes: int, made: Maker, backbone: FrozenBackbone, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, sizes, run = live(made), [], FrozenBackbone.stages

    def counted(self: FrozenBackbone, images: Tensor) -> list[Tensor]:
        sizes.append(len(images))
        return run(self, images)

    monkeypatch.setattr(FrozenBackbone, "stages", counted)
    spec = SideNetworkSpec(
        width=32, n_stages=3, n_classes=3, n_prefix_tokens=1, modules_per_block=1, pool="mean", max_rank=2
    )
    lanes = [Lane(LaneConfig(lr=1e-2, rank=2), spec.lane(2, seed), seed) for seed in range(n_lanes)]
    val = StageData(np.zeros((2, 3, backbone.tokens, 32), np.float16), torch.tensor([0, 1]), 3)
    training = Training(lanes, fresh, val, n_epochs=3, batch_size=16, seed=0)
    for order in (1, 2, 3):
        sizes.clear()
        training.epoch(order)
        assert sizes == [len(batch) for batch in training_batches(data.train.n_images, 16, 0, order)]


def test_the_next_batch_is_decoded_while_one_is_trained_on(backbone: FrozenBackbone) -> None:
    opened = [threading.Event() for _ in range(6)]

    def opener(index: int) -> Image.Image:
        opened[index].set()
        return Image.new("RGB", (32, 32), (index, 0, 0))

    split = Split("train", np.arange(6) % 2, opener, lambda: "fingerprint")
    fresh = LiveViews(TrainingViews(None, 0), (split,), backbone, CPU, 2)
    with closing(fresh.batches(1, torch.arange(6).split(2), LIKE)) as batches:
        next(batches)
        assert all(event.wait(60) for event in opened[:4]), "the second batch is decoded in advance"
        assert not opened[4].is_set(), "nothing further ahead is decoded"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    assert not opened[4].is_set(), "an interrupted epoch decodes nothing more"


def test_features_that_float16_cannot_hold_are_refused(
    made: Maker, monkeypatch: pytest.MonkeyPatch, data: DataSet
) -> None:
    run, fresh = FrozenBackbone.stages, live(made)

    def huge(self: FrozenBackbone, images: Tensor) -> list[Tensor]:
        stages = run(self, images)
        stages[1][2] = 7e4
        return stages

    monkeypatch.setattr(FrozenBackbone, "stages", huge)
    with pytest.raises(SweepError, match=r"image 9 of split 'train, view 1' \(.*png\): backbone"):
        next(fresh.batches(1, [torch.tensor([3, 4, 9, 1])], LIKE))


def test_an_image_that_cannot_be_read_is_named(made: Maker, data: DataSet) -> None:
    def opener(index: int) -> Image.Image:
        raise SweepError(f"cannot read {index}.png")

    fresh = replace(live(made), splits=(replace(data.train, opener=opener),))
    with pytest.raises(SweepError, match=r"cannot read 4\.png"):
        next(fresh.batches(1, [torch.tensor([4])], LIKE))


def test_views_are_copied_to_a_device_one_by_one(made: Maker) -> None:
    held, fresh = cached(made, 3), live(made)
    val = held.views[0].first(4)
    room = DeviceRoom(CPU, 2 * held.views[0].stages.nbytes)
    placed, placed_val = in_room(held, val, room)
    indices = [torch.tensor([5, 2])]
    for order in (1, 2, 3):
        assert same(next(placed.batches(order, indices, LIKE)), next(held.batches(order, indices, LIKE)))
    assert room.used_bytes == room.budget_bytes
    assert same(next(placed_val.batches(1, [torch.tensor([3, 0])], LIKE)), val.batch(torch.tensor([3, 0]), LIKE))
    assert in_room(fresh, val, room)[0] is fresh
    assert in_room(held, val, None) == (held, val)
