"""Backbones of several shapes: what they share, and that sharing changes no features."""

from pathlib import Path

import optuna
import pytest
import torch

from backbones import Backbone, load_backbone
from backbones.frozen import FrozenBackbone
from sweep import LaneConfig, Study
from sweep.machine.device import device_named
from sweep.records.reporter import Reporter
from sweep.running import preparation
from sweep.running.preparation import prepare
from sweep.running.settings import ShapeSettings
from sweep.study.shape import Shape, shape_of

SHAPES = [(stages, augment, size) for stages in (1, 2, 4) for augment in ("none", "flip") for size in (16, 32)]


def suggest(trial: optuna.Trial) -> LaneConfig:
    stages, augment, size = trial.suggest_categorical("shape", SHAPES)
    return LaneConfig(lr=1e-2, rank=2, stages=stages, augment=augment, image_size=size)


class Heard(Reporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def memory_of(backbone: FrozenBackbone) -> set[int]:
    return {parameter.data_ptr() for parameter in backbone.parameters()}


def test_shapes_share_backbones_and_weights(
    drawn_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Backbone] = []

    def load(name: str, **options: object) -> Backbone:
        loaded.append(load_backbone(name, **options))  # type: ignore[arg-type]
        return loaded[-1]

    monkeypatch.setattr(preparation, "load_backbone", load)
    study = Study(
        suggest=suggest,
        baseline={"shape": SHAPES[0]},
        max_rank=2,
        backbone="tiny-untrained",
        data=str(drawn_images),
        batch_size=16,
    )
    prepared = prepare(study, n_parallel=4, device=device_named("cpu"), cache_dir=tmp_path)
    reporter = Heard()
    settings = ShapeSettings(prepared, tmp_path, reporter, lambda source: None)

    def shape(stages: int, augment: str, size: int) -> Shape:
        config = LaneConfig(lr=1e-2, rank=2, stages=stages, augment=augment, image_size=size)
        return shape_of(prepared.study, config)

    backbones = {key: settings.looked_at(shape(*key)).backbone for key in SHAPES}
    assert len(loaded) == 6, "one for each number of stages and each size; augmented images need no other"
    assert reporter.messages == [], "nothing is said of shapes that may never train"
    for augment in ("none", "flip"):
        settings.prepared_of(shape(2, augment, 32))
    assert [message.split(" stages ")[1] for message in reporter.messages] == [
        f"(after 0, 2, 4 of 4 blocks), for trials of another shape{trained_on}"
        for trained_on in ("", "; training images: flip, 4 cached views of every train image")
    ]
    with_all = settings.with_all_stages(settings.looked_at(shape(2, "none", 16)))
    of_sizes = {size: set[int]() for size in (16, 32)}
    for (stages, _, size), backbone in backbones.items():
        assert isinstance(backbone, FrozenBackbone)
        of_sizes[size] |= memory_of(backbone)
        own = load_backbone(study.backbone, stages=stages, image_size=size, cache_dir=tmp_path)
        inputs = own.random_inputs(2)
        assert backbone.fingerprint == own.fingerprint
        assert all(map(torch.equal, backbone.stages(inputs), own.stages(inputs)))
        assert not any(parameter.requires_grad for parameter in backbone.parameters())
    n_parameters = len(list(own.parameters()))
    assert [len(places) for places in of_sizes.values()] == [n_parameters, n_parameters]
    assert isinstance(with_all, FrozenBackbone)
    assert memory_of(with_all) == of_sizes[16]


def test_backbones_with_other_weights_share_nothing(tmp_path: Path) -> None:
    one, other = (load_backbone("tiny-untrained", cache_dir=tmp_path) for _ in range(2))
    other.take_weights({name: tensor + 1 for name, tensor in other.network.state_dict().items()})
    before = other.fingerprint
    other.share_weights(one)
    assert other.fingerprint == before != one.fingerprint
    assert not memory_of(one) & memory_of(other)
