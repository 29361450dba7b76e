"""The packaged demo sets: sizes, balance, what the pictures show, the same every time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sweep.data import DATA_SETS, load_data
from sweep.data import digits as digits_module
from sweep.data.rendered import render
from sweep.errors import UsageError

SIZES = {"count": (8, 800, 200, 500), "mnist": (10, 800, 200, 1000), "mnist-count": (8, 800, 200, 500)}


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_sizes_balance_and_fingerprints(name: str, cache_dir: Path) -> None:
    data = load_data(name, seed=3, cache_dir=cache_dir)
    splits = (data.train, data.val, data.test)
    assert (data.n_classes, *(split.n_images for split in splits)) == SIZES[name]
    for split in splits:
        sizes = np.bincount(split.labels, minlength=data.n_classes)
        assert sizes.max() - sizes.min() <= 1
        assert split.labels.dtype == np.int64
        with pytest.raises(IndexError):
            split.open(split.n_images)
    assert len({split.fingerprint for split in splits}) == 3
    assert data.notice
    again = load_data(name, seed=4, cache_dir=cache_dir)
    for split, same in zip(splits, (again.train, again.val, again.test), strict=True):
        assert split.fingerprint == same.fingerprint
        assert split.open(7).tobytes() == same.open(7).tobytes()


@pytest.mark.parametrize("name", ["count", "mnist-count"])
def test_pictures_differ_within_and_between_splits(name: str, cache_dir: Path) -> None:
    data = load_data(name, seed=0, cache_dir=cache_dir)
    pictures = {split.open(i).tobytes() for split in (data.train, data.val, data.test) for i in range(8)}
    assert len(pictures) == 24


def test_count_is_the_same_in_another_process(cache_dir: Path) -> None:
    code = "from sweep.data.rendered import count; print(count().val.fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == load_data("count", seed=0, cache_dir=cache_dir).val.fingerprint


def islands(mask: np.ndarray) -> int:
    """Number of 8-connected regions of True."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = 0
    while left:
        found += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
    return found


def test_mnist_count_shows_as_many_digits_as_it_says(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With solid squares for digits every pasted one is a single region, so regions can be counted."""
    squares = np.zeros((5, 28, 28), dtype=np.uint8)
    squares[:, 4:24, 8:20] = 255
    for n_digits in range(1, 9):
        picture = np.asarray(digits_module.paste_digits(squares, n_digits, f"seed {n_digits}"))
        assert picture.shape == (112, 112)
        assert islands(picture > 128) == n_digits


@pytest.mark.parametrize("n_objects", [3, 6, 10])
def test_count_shows_as_many_objects_as_it_says(n_objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In white, without shadows and before a dark floor, every object is a single bright region."""
    monkeypatch.setattr("sweep.data.rendered.PALETTE", ((255, 255, 255),))
    monkeypatch.setattr("sweep.data.rendered._shaded", solid)
    monkeypatch.setattr("sweep.data.rendered._background", dark)
    for seed in range(8):
        picture = np.asarray(render(n_objects, f"seed {seed}").convert("L"))
        assert picture.shape == (128, 128)
        assert islands(picture > 60) == n_objects


def solid(colour: tuple[int, int, int], brightness: np.ndarray, inside: np.ndarray) -> object:
    from PIL import Image

    return Image.fromarray(np.where(inside[..., None], 255, 0).repeat(4, axis=-1).astype(np.uint8), "RGBA")


def dark(rng: object, side: int) -> object:
    from PIL import Image

    return Image.new("RGB", (side, side))


def test_mnist_splits_are_disjoint_and_keep_their_labels(cache_dir: Path) -> None:
    scans, labels = digits_module._digits(cache_dir)
    label_of = {scan.tobytes(): int(label) for scan, label in zip(scans, labels, strict=True)}
    data = load_data("mnist", seed=0, cache_dir=cache_dir)
    seen: set[bytes] = set()
    for split in (data.train, data.val, data.test):
        pixels = {split.open(i).tobytes(): int(split.labels[i]) for i in range(split.n_images)}
        assert all(label_of[content] == label for content, label in pixels.items())
        assert not seen & pixels.keys()
        seen |= pixels.keys()
    assert len(seen) == 2000


@pytest.mark.parametrize(("spec", "message"), [("cuont", "did you mean count"), ("no/such/folder", "does not exist")])
def test_unknown_name(spec: str, message: str, cache_dir: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_data(spec, seed=0, cache_dir=cache_dir)
    assert repr(spec) in str(caught.value)
    assert "count, mnist, mnist-count" in str(caught.value)


def test_a_file_is_no_data_set(tmp_path: Path, cache_dir: Path) -> None:
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        load_data(str(tmp_path / "list.txt"), seed=0, cache_dir=cache_dir)
