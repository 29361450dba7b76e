"""NumPy archives of images and labels."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sweep.machine.memory
from sweep.data import DataSet, load_data
from sweep.errors import SweepError, UsageError

RNG = np.random.default_rng(0)
GREYS = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def load(path: Path, seed: int = 0, **arrays: Any) -> DataSet:
    np.savez(path / "scans.npz", **arrays)
    return load_data(str(path / "scans.npz"), seed=seed, cache_dir=path)


def splits(data: DataSet) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.stack([np.asarray(split.open(i)) for i in range(split.n_images)]), split.labels)
        for split in (data.train, data.val, data.test)
    ]


@pytest.mark.parametrize("images", [GREYS, COLOURS, GREYS[..., None]])
def test_one_array_is_split(tmp_path: Path, images: np.ndarray) -> None:
    data = load(tmp_path, images=images, labels=LABELS + 8)
    assert (data.name, data.class_names) == ("scans", ("8", "9", "10"))
    found = {
        image.tobytes(): int(label) for part, labels in splits(data) for image, label in zip(part, labels, strict=True)
    }
    assert found == {image.tobytes(): int(label) for image, label in zip(images, LABELS, strict=True)}
    assert [len(part) for part, _ in splits(data)] == [6, 3, 3]
    assert load(tmp_path, images=images, labels=LABELS + 8, seed=1).train.fingerprint != data.train.fingerprint


@pytest.mark.parametrize(("images", "labels"), [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_given_splits_under_either_name(tmp_path: Path, images: str, labels: str) -> None:
    arrays = {}
    for split, members in (("train", slice(0, 6)), ("val", slice(6, 9)), ("test", slice(9, 12))):
        arrays[images.format(split)] = COLOURS[members]
        arrays[labels.format(split)] = LABELS[members, None].astype(np.uint8)
    data = load(tmp_path, **arrays)
    for (part, found), members in zip(splits(data), (slice(0, 6), slice(6, 9), slice(9, 12)), strict=True):
        np.testing.assert_array_equal(part, COLOURS[members])
        np.testing.assert_array_equal(found, LABELS[members])
    without_val = {name: array for name, array in arrays.items() if "val" not in name}
    assert "val is 20 % of train" in load(tmp_path, **without_val).description


def test_labels_may_be_text_and_sizes_may_differ_between_splits(tmp_path: Path) -> None:
    names = np.array(["cat", "dog"])[np.arange(8) % 2]
    data = load(tmp_path, train_images=GREYS[:8], train_labels=names, test_images=COLOURS[:2], test_labels=names[:2])
    assert data.class_names == ("cat", "dog")
    assert (data.train.open(0).mode, data.test.open(0).mode) == ("L", "RGB")


def test_fingerprint_sees_pixels_labels_and_shape(tmp_path: Path) -> None:
    changed = GREYS.copy()
    changed[:, 0, 0] ^= 1
    prints = [
        load(tmp_path, images=images, labels=labels).train.fingerprint
        for images, labels in (
            (GREYS, LABELS),
            (GREYS, LABELS[::-1]),
            (changed, LABELS),
            (GREYS.reshape(12, 5, 6), LABELS),
            (GREYS, LABELS),
        )
    ]
    assert len(set(prints)) == 4
    assert prints[0] == prints[-1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": GREYS}, r"scans\.npz has no images \(its arrays: x\); give images and labels"),
        ({"images": GREYS}, r"scans\.npz has no array labels \(its arrays: images\)"),
        ({"train_images": GREYS, "train_labels": LABELS}, r"scans\.npz has no test images"),
        ({"images": GREYS / 255, "labels": LABELS}, r"images of .* holds float64; images are uint8"),
        ({"images": COLOURS[..., :2], "labels": LABELS}, r"images of .* has shape \(12, 6, 5, 2\)"),
        ({"images": GREYS[:0], "labels": LABELS[:0]}, r"images of .* has shape \(0, 6, 5\)"),
        ({"images": GREYS, "labels": LABELS[:5]}, r"labels of .* has shape \(5,\), but images has 12 images"),
        (
            {"images": GREYS, "labels": 2 * np.eye(12, dtype=int)},
            r"labels of .* of shape \(12, 12\); .* must be 0 or 1, one column per label",
        ),
        ({"images": GREYS, "labels": np.zeros((12, 3), int)}, r"no train image of .*scans\.npz has a label"),
        ({"images": GREYS, "labels": np.where(LABELS, np.nan, 0.5)}, r"labels of .* has targets that are not finite"),
        ({"images": GREYS, "labels": np.full(12, 0.5)}, r"target has one value in all 8 train images of .*scans\.npz"),
        (
            {"images": GREYS, "labels": np.where(LABELS > 1, 0.1 + 0.2, 0.3)},
            r"target has one value in all 8 train images",
        ),
        ({"images": GREYS, "labels": np.zeros((12, 3, 2))}, r"labels of .* has shape \(12, 3, 2\)"),
        ({"images": GREYS, "labels": LABELS > 1}, r"labels of .* holds bool of shape \(12,\); for classes"),
        (
            {"x_train": GREYS, "y_train": LABELS, "x_test": GREYS, "y_test": LABELS / 2},
            r"the label arrays of .* are of several kinds",
        ),
        ({"images": GREYS, "labels": np.zeros(12, int)}, r"scans\.npz has 1 classes"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(tmp_path, **arrays)


def test_more_than_memory_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.machine.memory, "available_bytes", lambda device: 100)
    with pytest.raises(UsageError, match=r"scans\.npz unpacks to 0\.0 GiB, more than the memory"):
        load(tmp_path, images=GREYS, labels=LABELS)


class Bomb:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "how", ["objects in an array", "a pickle instead of an array", "a pickle instead of an archive"]
)
def test_nothing_is_unpickled(tmp_path: Path, how: str) -> None:
    trace, path = tmp_path / "executed", tmp_path / "scans.npz"
    bomb = np.array([Bomb(trace)] * 12, dtype=object)
    if how == "objects in an array":
        np.savez(path, images=GREYS, labels=bomb)
    elif how == "a pickle instead of an array":
        np.savez(path, images=GREYS)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("labels.npy", pickle.dumps(Bomb(trace)))
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(SweepError, match=r"cannot read .*scans\.npz|labels of .* holds") as refused:
        load_data(str(path), seed=0, cache_dir=tmp_path)
    assert not trace.exists()
    assert "unsafely" not in str(refused.value)  # NumPy advises to unpickle a file that is no archive


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but not really", b"\x93NUMPY"])
def test_damaged_archives(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scans.npz").write_bytes(content)
    with pytest.raises(SweepError, match=r"cannot read .*scans\.npz: .*numpy\.savez"):
        load_data(str(tmp_path / "scans.npz"), seed=0, cache_dir=tmp_path)


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, GREYS)
    (tmp_path / "scans.npz").write_bytes(file.getvalue())
    with pytest.raises(SweepError, match=r"cannot read .*scans\.npz: it is not an archive of arrays; save the arrays"):
        load_data(str(tmp_path / "scans.npz"), seed=0, cache_dir=tmp_path)
