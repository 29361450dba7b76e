"""Data set objects that a study file passes to sweep."""

import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import RandomCrop, ToTensor

import sweep.cli
from sweep import LaneConfig, Study
from sweep.data import DataSet, OnBadImage, load_data
from sweep.errors import SweepError, UsageError


class Numbered:
    """Images whose red value is their number. `label` computes the label from the number."""

    def __init__(self, numbers: range, label: Callable[[int], Any] = lambda number: number % 2):
        self.numbers, self.label = numbers, label

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        number = self.numbers[index]
        if number == 99:
            raise OSError("the disk is tired")
        return Image.new("RGB", (5, 4), (number, 0, 0)), self.label(number)


def load(on_bad_image: OnBadImage = "error", seed: int = 0, **objects: Any) -> DataSet:
    return load_data(objects, seed=seed, cache_dir=Path("unused"), on_bad_image=on_bad_image)


def reds(data: DataSet) -> list[list[int]]:
    return [
        [split.open(i).getpixel((0, 0))[0] for i in range(split.n_images)]
        for split in (data.train, data.val, data.test)
    ]


def test_splits_as_given_split_off_and_split_at_random() -> None:
    data = load(train=Numbered(range(4)), val=Numbered(range(10, 12)), test=Numbered(range(20, 23)))
    assert reds(data) == [[0, 1, 2, 3], [10, 11], [20, 21, 22]]
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.class_names == ("0", "1")
    data = load(train=Numbered(range(10)), test=Numbered(range(20, 23)))
    assert [len(part) for part in reds(data)] == [8, 2, 3]
    data = load(all=Numbered(range(20)))
    assert [len(part) for part in reds(data)] == [12, 4, 4]
    assert reds(load(seed=1, all=Numbered(range(20)))) != reds(data)


@pytest.mark.parametrize("label", [np.int32, torch.tensor, int])
def test_labels_may_be_any_integer_type(label: Callable[[int], Any]) -> None:
    data = load(all=Numbered(range(20), lambda number: label(number % 2)))
    assert data.train.labels.dtype == np.int64


def test_items_that_draw_on_global_random_state_are_the_same_every_time() -> None:
    """torchvision's FakeData seeds PyTorch's global generator for every item. Two threads would disturb each other."""
    prints = {load(all=FakeData(60, (3, 32, 32), 2)).train.fingerprint for _ in range(8)}
    assert len(prints) == 1


def test_torchvision_folders_with_their_class_names(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("L", (4, 4), number).save(tmp_path / name / f"{number}.png")
    data = load(all=ImageFolder(tmp_path))
    assert data.class_names == ("cats", "dogs")
    assert data.train.n_images == 6
    assert "all ImageFolder" in data.description


def test_fingerprint_sees_pixels_and_labels() -> None:
    prints = [
        load(train=train, val=Numbered(range(2)), test=Numbered(range(2))).train.fingerprint
        for train in (
            Numbered(range(4)),
            Numbered(range(4)),
            Numbered(range(2, 6)),
            Numbered(range(4), lambda number: 1 - number % 2),
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def generator(numbers: range) -> Any:
    return (item for item in Numbered(numbers))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({}, "Study.data has the parts none; give train, test"),
        ({"train": Numbered(range(4))}, "Study.data has the parts train; give train, test"),
        ({"fitting": Numbered(range(4)), "test": Numbered(range(4))}, "has the parts fitting, test"),
        ({"val": [], "valid": [], "train": [], "test": []}, "has the parts val, valid, train, test"),
        ({"all": generator(range(4))}, r"Study\.data\['all'\] is generator, which has no length"),
        ({"all": FakeData(6, (3, 8, 8), 2, ToTensor())}, r"data\['all'\]\[0\] is \(Tensor, int\), not a Pillow image"),
        ({"all": [7, 8]}, r"data\['all'\]\[0\] is int, not a Pillow image and a label"),
        ({"all": Numbered(range(4), lambda number: "cat")}, r"the label of .*\[0\] is 'cat', not a class index"),
        ({"all": Numbered(range(4), lambda number: number - 1)}, r"the label of .*\[0\] is -1, not a class index"),
        ({"all": Numbered(range(4), lambda number: {number})}, r"the label of .*\[0\] is \{0\}, not a class index"),
        (
            {"all": Numbered(range(4), lambda number: 2 * number)},
            "no item of Study.data has label 1; number the classes",
        ),
        ({"all": Numbered(range(4), lambda number: 0)}, r"Study\.data .* has 1 classes"),
        (
            {"all": FakeData(20, (3, 64, 64), 2, RandomCrop(8))},
            r"\[0\] is another image every time; .*random transforms",
        ),
    ],
)
def test_unsuitable_objects_are_refused(objects: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(**objects)


def test_items_that_fail_are_named_or_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        SweepError, match=r"cannot read the image Study\.data\['all'\]\[9\]: the disk is tired\. .*--on-bad-image skip"
    ):
        load(all=Numbered(range(90, 104)))
    data = load("skip", all=Numbered(range(90, 104)))
    assert sorted(red for part in reds(data) for red in part) == [*range(90, 99), *range(100, 104)]
    assert [skipped.path for skipped in data.skipped] == ["Study.data['all'][9]"]
    assert "the disk is tired" in caplog.text
    with pytest.raises(SweepError, match="has 32-bit values"):
        load(all=[(Image.new("F", (4, 4)), 0)])


def test_images_that_are_opened_but_not_read_yet(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.effect_noise((64, 64), 50).save(path)
    os.truncate(paths[5], 900)

    class Opened(Numbered):
        def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
            return Image.open(io.BytesIO(paths[index].read_bytes())), index % 2

    with pytest.raises(SweepError, match=r"cannot read the image Study\.data\['all'\]\[5\]: .*truncated"):
        load(all=Opened(range(6)))
    paths[5] = paths[0]
    assert load(all=Opened(range(6))).train.open(0).getextrema() != (0, 0)


def test_a_study_with_data_objects_is_recorded_as_json() -> None:
    study = Study(suggest=lambda trial: LaneConfig(lr=1e-3), baseline={}, max_rank=8, data={"all": Numbered(range(4))})
    assert json.loads(json.dumps(study.declarations()))["data"] == "objects of the study file"
    assert study.override(data="count").data == "count"
    with pytest.raises(UsageError, match=r"Study\.data must be a str, or map splits to data sets, not 7"):
        Study(suggest=lambda trial: LaneConfig(lr=1e-3), baseline={}, max_rank=8, data=7)  # type: ignore[arg-type]


STUDY = """
from torchvision.datasets import FakeData
import sweep.cli
from sweep import LaneConfig, Study

study = Study(
    suggest=lambda trial: LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=1),
    baseline={"lr": 1e-2}, max_rank=1, backbone="tiny-untrained", group_size=2, trials=2, epochs=1, batch_size=8,
    data={"train": FakeData(20, (3, 32, 32), 2), "test": FakeData(10, (3, 32, 32), 2)},
)
"""


def test_a_study_of_objects_runs_resumes_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, " ".join(capsys.readouterr().err.split())

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(STUDY)
    with monkeypatch.context() as patched:
        patched.setattr("sweep.running.ending.tuned_linear_probe", stop)
        code, said = call("run", "--study", "mine.py", "--device", "cpu", "--out", "out")
    assert (code, "Study.data (train FakeData, test FakeData)" in said) == (130, True), said
    code, said = call("resume", "out", "--study", "mine.py")
    assert code == 0, said
    assert sweep.load_results("out").summary["n_test_images"] == 10
    assert sweep.load_results("out").config["data"] == "objects of the study file"
    code, said = call("report", "out")
    assert code == 0, said
    assert "the images were objects of the study file" in said


class Named(Numbered):
    """The same images, with an attribute `classes` as torchvision's data sets have it."""

    def __init__(self, numbers: range, classes: list[str], label: Callable[[int], Any] = lambda number: number % 3):
        super().__init__(numbers, label)
        self.classes = classes


@pytest.mark.parametrize(
    ("of_test", "message"),
    [
        (
            ["cat", "emu", "zebra"],
            r"\['test'\] has other classes than .*\['train'\]: number 1 is 'emu' in the former",
        ),
        (["dog", "cat", "emu"], r"number 0 is 'dog' in the former and 'cat' in"),
        (["cat", "dog", "emu", "fox"], r"number 3 is 'fox' in the former and no class in"),
    ],
)
def test_splits_that_number_their_classes_differently_are_refused(of_test: list[str], message: str) -> None:
    train = Named(range(9), ["cat", "dog", "emu"])
    assert load(train=train, test=Named(range(6), ["cat", "dog", "emu"])).class_names == ("cat", "dog", "emu")
    with pytest.raises(UsageError, match=message):
        load(train=train, test=Named(range(6), of_test))


def test_class_names_of_one_part_hold_for_all_parts() -> None:
    data = load(train=Named(range(9), ["cat", "dog", "emu"]), test=Numbered(range(6), lambda number: number % 3))
    assert data.class_names == ("cat", "dog", "emu")


@pytest.mark.parametrize("largest", [10**8, 10**12, 2**62])
def test_memory_does_not_grow_with_the_largest_label(largest: int) -> None:
    items = Numbered(range(20), lambda number: largest * (number % 2))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"no item of Study\.data has label 1; number the classes from 0"):
            load(all=items)
        with pytest.raises(UsageError, match=r"no item of Study\.data has label 1"):
            load(all=Named(range(20), ["a", "b"], items.label))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20e6
