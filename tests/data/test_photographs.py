"""The packaged photographs: their licence must be accepted, and their labels are those of the package."""

from pathlib import Path

import numpy as np
import pytest

import sweep
from sweep.data import DATA_SETS, load_data
from sweep.data.photographs import ELPV_TERMS, FACES_TERMS, take_in_proportion
from sweep.errors import UsageError
from sweep.machine import packaged_files
from sweep.running.recorded import recorded_data

RESTRICTED = {"elpv": ELPV_TERMS, "elpv-type": ELPV_TERMS, "faces": FACES_TERMS}


@pytest.mark.parametrize("name", RESTRICTED)
@pytest.mark.parametrize("accepted", [None, "", "MIT"])
def test_a_restricted_licence_is_asked_for_before_anything_is_fetched(
    name: str, accepted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged_files.subprocess, "run", lambda *args, **kwargs: pytest.fail("fetched"))
    with pytest.raises(UsageError, match=rf"licence of {name} is restricted: .*--accept-licence {RESTRICTED[name]}"):
        load_data(name, seed=0, cache_dir=tmp_path, accept_licence=accepted)
    assert not list(tmp_path.iterdir())


def test_only_these_data_sets_have_a_licence_to_accept() -> None:
    assert {name: packaged.terms for name, packaged in DATA_SETS.items() if packaged.terms} == RESTRICTED


def test_several_licences_may_be_accepted_at_once(cache_dir: Path) -> None:
    data = load_data("faces", seed=0, cache_dir=cache_dir, accept_licence=f"MIT, {FACES_TERMS}")
    assert "AT&T Laboratories Cambridge" in data.notice


def test_a_run_records_the_licence_that_was_accepted(
    cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache_dir))
    small = {"backbone": "tiny-untrained", "group_size": 2, "trials": 2, "epochs": 1, "n_parallel": 2}
    with pytest.raises(UsageError, match="licence of faces is restricted"):
        sweep.run("lr_rank", data="faces", out=tmp_path / "run", **small)
    run = sweep.run("lr_rank", data="faces", accept_licence=FACES_TERMS, out=tmp_path / "run", **small)
    config = run.results.config
    assert (config["accept_licence"], "for research" in config["data_notice"]) == (FACES_TERMS, True)
    again = recorded_data(config, cache_dir, splits=("train", "test"))  # for a report or for `sweep verify`
    assert again.test.n_images == 120


def test_faces_of_one_person_are_similar(cache_dir: Path) -> None:
    """The nearest training photograph, pixel by pixel, nearly always shows the same person."""
    data = load_data("faces", seed=0, cache_dir=cache_dir, accept_licence=FACES_TERMS)
    pixels = [
        np.stack([np.asarray(split.open(i).resize((23, 28)), dtype=float).ravel() for i in range(split.n_images)])
        for split in (data.train, data.test)
    ]
    nearest = ((pixels[1][:, None] - pixels[0][None]) ** 2).sum(-1).argmin(1)
    assert (data.train.labels[nearest] == data.test.labels).mean() > 0.85
    assert np.bincount(data.train.labels).tolist() == [5] * 40


def test_elpv_has_the_labels_of_the_package(cache_dir: Path) -> None:
    grades, types = (
        load_data(name, seed=0, cache_dir=cache_dir, accept_licence=ELPV_TERMS) for name in ("elpv", "elpv-type")
    )
    assert (grades.class_names, types.class_names) == (("0", "1/3", "2/3", "1"), ("mono", "poly"))
    assert "CC BY-NC-SA 4.0: no commercial use" in grades.notice
    for split, expected in (("train", (460, 90, 32, 218)), ("test", (575, 112, 40, 272))):
        counts = np.bincount(getattr(grades, split).labels, minlength=4)
        assert np.abs(counts - expected).max() <= 2, "as in all 2,624 photographs"
    assert grades.train.open(0).tobytes() == types.train.open(0).tobytes(), "the same photographs"
    assert grades.train.open(0).size == (300, 300)
    # labels.csv says: cells 1 to 3 are certainly defective, cell 4 is not, and all are monocrystalline
    assert abs(types.train.labels.mean() - 1550 / 2624) < 0.01
    defective, intact = (
        np.mean(
            [np.asarray(grades.train.open(int(i))).min() for i in np.flatnonzero(grades.train.labels == label)[:60]]
        )
        for label in (3, 0)
    )
    assert defective < intact, "a defect is dark"


def test_every_stratum_has_its_share() -> None:
    strata = np.repeat(np.arange(5), (100, 40, 7, 3, 50))
    parts = take_in_proportion(strata, (80, 20, 60), seed=0)
    assert [len(part) for part in parts] == [80, 20, 60]
    assert len(np.unique(np.concatenate(parts))) == 160
    for part in parts:
        share = np.bincount(strata) * len(part) / len(strata)
        assert np.abs(np.bincount(strata[part], minlength=5) - share).max() <= 2
    assert not np.array_equal(parts[0], take_in_proportion(strata, (80, 20, 60), seed=1)[0])
    assert [len(part) for part in take_in_proportion(strata, (150, 50), seed=0)] == [150, 50]
