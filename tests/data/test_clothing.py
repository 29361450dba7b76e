"""A data set of photographs of clothes, read from folders on disk. The test is skipped if they are missing.

The data set is https://github.com/alexeygrigorev/clothing-dataset-small (CC0 1.0) with its folders `train`,
`validation` and `test`. `$SWEEP_TEST_PHOTOS` may name the folder that holds it.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

from sweep.data import DataSet, load_data
from sweep.data.summary import summary, warn_of_shared_items

PHOTOS = Path(os.environ.get("SWEEP_TEST_PHOTOS", Path(__file__).parents[2].parent / "shared" / "data" / "clothing"))
CLASSES = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")

pytestmark = pytest.mark.skipif(
    not (PHOTOS / "train").is_dir(), reason=f"the photographs of clothes are not in {PHOTOS} ($SWEEP_TEST_PHOTOS)"
)


def load(root: Path) -> DataSet:
    return load_data(str(root), seed=0, cache_dir=root / "unused")


@pytest.fixture(params=["val", "validation"])
def clothing(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folders, with the validation images under each of the two accepted names."""
    for split in ("train", "val", "test"):
        found = next(path for path in (PHOTOS / split, PHOTOS / "validation") if path.is_dir())
        (tmp_path / (request.param if split == "val" else split)).symlink_to(found)
    return tmp_path


def test_the_folders_are_read_unchanged(clothing: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load(clothing)
    assert data.class_names == CLASSES
    for split, folder in ((data.train, "train"), (data.val, "val*"), (data.test, "test")):
        paths = [path for part in clothing.glob(folder) for path in part.resolve().glob("*/*.jpg")]
        counts = Counter(path.parent.name for path in paths)
        assert [counts[name] for name in CLASSES] == [(split.labels == i).sum() for i in range(len(CLASSES))]
        assert min(split.open(0).size) > 100
    assert summary(data).startswith(f"classes: 10 (dress {(data.train.labels == 0).sum()}, hat ")
    warn_of_shared_items(data)
    assert caplog.text == "", "there is nothing to warn about"
