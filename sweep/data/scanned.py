"""The packaged sets `digits` and `fashion-mnist`: small grey images, with a fixed number of images per class."""

import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sweep.data.base import DataSet, Indices, Labels, Split, digest_of
from sweep.errors import SweepError
from sweep.machine.packaged_files import fetch_wheel_member

Pictures = npt.NDArray[np.uint8]

DIGITS_PACKAGE, DIGITS_VERSION = "scikit-learn", "1.9.1"
DIGITS_MEMBER = "sklearn/datasets/data/digits.csv.gz"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
DIGITS_SIZE, DIGITS_LARGEST = 8, 16

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_SIZE = 28
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
IMAGE_HEADER, LABEL_HEADER = 16, 8  # bytes of an idx file in front of its values


def digits(cache_dir: Path) -> DataSet:
    """Return the packaged set `digits`: 10 classes, 800 / 200 / 740 scans of 8 x 8, always the same split.

    Raises:
        SweepError: the package that carries the scans cannot be fetched.
    """
    content = fetch_wheel_member(DIGITS_PACKAGE, DIGITS_VERSION, DIGITS_MEMBER, DIGITS_SHA256, cache_dir=cache_dir)
    table = np.loadtxt(gzip.decompress(content).decode("ascii").splitlines(), delimiter=",")
    grey = np.rint(table[:, :-1] * (255 / DIGITS_LARGEST)).astype(np.uint8)
    pictures, labels = grey.reshape(-1, DIGITS_SIZE, DIGITS_SIZE), table[:, -1].astype(np.int64)
    train, val, test = take_per_class(labels, (80, 20, 74), seed=0)
    return DataSet(
        name="digits",
        description="digits scanned from forms, 8 x 8; the same split for every seed",
        class_names=tuple(str(digit) for digit in range(10)),
        train=_split("digits", "train", pictures, labels, train),
        val=_split("digits", "val", pictures, labels, val),
        test=_split("digits", "test", pictures, labels, test),
        notice=(
            "Optical recognition of handwritten digits (Alpaydin, Kaynak; UCI, CC BY 4.0), as carried by "
            f"scikit-learn {DIGITS_VERSION} (BSD-3-Clause)."
        ),
    )


def fashion_mnist(cache_dir: Path) -> DataSet:
    """Return the packaged set `fashion-mnist`: 10 classes, 800 / 200 / 1000 photographs of 28 x 28, in grey.

    Train and val are taken from the original training images, and test from the original test images.

    Raises:
        SweepError: the files are not here, or not the expected ones.
    """
    folder = fashion_folder(cache_dir)
    if folder is None:
        raise SweepError(
            f"fashion-mnist is not here: install the Debian package {FASHION_PACKAGE}, or put its four files "
            f"({', '.join(f'{name}.gz' for name in FASHION_SHA256)}) into {cache_dir / 'fashion-mnist'}"
        )
    kept, kept_labels = _read_idx(folder, "train")
    held, held_labels = _read_idx(folder, "t10k")
    train, val = take_per_class(kept_labels, (80, 20), seed=0)
    (test,) = take_per_class(held_labels, (100,), seed=0)
    return DataSet(
        name="fashion-mnist",
        description="photographs of clothes, 28 x 28, grey; test is from the original test images; always the same",
        class_names=FASHION_CLASSES,
        train=_split("fashion-mnist", "train", kept, kept_labels, train),
        val=_split("fashion-mnist", "val", kept, kept_labels, val),
        test=_split("fashion-mnist", "test", held, held_labels, test),
        notice="Fashion-MNIST (Zalando SE, 2017; MIT).",
    )


def fashion_folder(cache_dir: Path) -> Path | None:
    """The folder with the files of Fashion-MNIST; None if there is none."""
    folders = FASHION_FOLDER, cache_dir / "fashion-mnist"
    return next((folder for folder in folders if (folder / "train-images-idx3-ubyte.gz").is_file()), None)


def take_per_class(labels: Labels, numbers: tuple[int, ...], seed: int) -> tuple[Indices, ...]:
    """Draw disjoint parts with a fixed number of images per class.

    Args:
        labels: (n,) int64.
        numbers: images per class, one number for each part.
        seed: seed of the permutation within each class.

    Returns:
        Sorted indices of each part.
    """
    parts: list[list[Indices]] = [[] for _ in numbers]
    for label in np.unique(labels):
        members = np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        for part, stop, number in zip(parts, np.cumsum(numbers).tolist(), numbers, strict=True):
            part.append(members[stop - number : stop])
    return tuple(np.sort(np.concatenate(part)) for part in parts)


def _split(data: str, name: str, pictures: Pictures, labels: Labels, members: Indices) -> Split:
    chosen, chosen_labels = pictures[members], labels[members]
    return Split(
        name,
        chosen_labels,
        lambda index: Image.fromarray(chosen[index]),
        lambda: digest_of([data, chosen.tobytes(), chosen_labels.tobytes()]),
    )


def _read_idx(folder: Path, part: str) -> tuple[Pictures, Labels]:
    """The (n, 28, 28) images and (n,) labels of Fashion-MNIST's `"train"` or `"t10k"`."""
    images = _read_checked(folder, f"{part}-images-idx3-ubyte")[IMAGE_HEADER:]
    labels = _read_checked(folder, f"{part}-labels-idx1-ubyte")[LABEL_HEADER:]
    pictures = np.frombuffer(images, np.uint8).reshape(-1, FASHION_SIZE, FASHION_SIZE)
    return pictures, np.frombuffer(labels, np.uint8).astype(np.int64)


def _read_checked(folder: Path, name: str) -> bytes:
    path = folder / f"{name}.gz"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SweepError(f"cannot read {path}: {error}; install the Debian package {FASHION_PACKAGE}") from error
    if hashlib.sha256(content).hexdigest() != FASHION_SHA256[name]:
        raise SweepError(f"{path} is not a file of Fashion-MNIST; install the Debian package {FASHION_PACKAGE}")
    return content
