"""Searches on augmented images: cached and live views train to the same bits, and all later commands use them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import RecordingReporter, Search
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import sweep.cli
from backbones.frozen import FrozenBackbone
from sweep import Results, Study, UsageError, load_results
from sweep.errors import SweepError
from sweep.export.write import export_run
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.preparation import prepare
from sweep.running.resume import resume_run
from sweep.running.retrain import Choice, retrain
from sweep.study.finding import LoadedStudy, load_study
from sweep.verify.verify import verify_trial

CPU = torch.device("cpu")


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the backbone one image at a time. Otherwise the rounding of a matrix library may depend on the batch."""
    run = FrozenBackbone.stages

    def stages(self: FrozenBackbone, images: Tensor) -> list[Tensor]:
        return [torch.cat(parts) for parts in zip(*(run(self, image) for image in images.split(1)), strict=True)]

    monkeypatch.setattr(FrozenBackbone, "stages", stages)


def assert_same_answer(found: Results, expected: Results) -> None:
    """Assert that all numbers of two runs are equal bit for bit."""
    pd.testing.assert_frame_equal(
        found.trials.drop(columns="seconds"), expected.trials.drop(columns="seconds"), check_exact=True
    )
    pd.testing.assert_frame_equal(found.curves, expected.curves, check_exact=True)
    for part in ("winner", "linear_probe", "n_trials"):
        assert found.summary[part] == expected.summary[part]


def test_without_the_cache_the_same_images_train_to_the_same_bits(
    small_study: Study, search: Search, tmp_path: Path, one_by_one: None
) -> None:
    cached = search(small_study, out=tmp_path / "cached")
    live = search(replace(small_study, cache="off"), out=tmp_path / "live")
    assert_same_answer(live, cached)
    kept, expected = (load_file(tmp_path / name / "weights.safetensors") for name in ("live", "cached"))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept.items())


def test_live_views_equal_cached_ones_if_every_epoch_has_its_own_view(
    small_study: Study, search: Search, tmp_path: Path, one_by_one: None
) -> None:
    study = replace(small_study, augment="flip-crop", epochs=4)
    cached = search(replace(study, views=4), out=tmp_path / "cached")
    live = search(replace(study, cache="off"), out=tmp_path / "live")
    assert_same_answer(live, cached)
    fewer = search(replace(study, views=2), out=tmp_path / "fewer")
    assert not fewer.curves["value"].equals(cached.curves["value"]), "two views repeat, which changes the training"
    assert len(list((tmp_path / "cache" / "features").glob("*.lock"))) == 4 + 2, "four views of train; val and test"


def test_the_winner_is_retrained_on_views_of_train_and_val(
    small_study: Study, search: Search, tmp_path: Path, one_by_one: None
) -> None:
    study = replace(small_study, augment="flip-crop", trials=2, epochs=2)
    weights = {}
    for name, declared in (("plain", {"augment": "none"}), ("cached", {"views": 2}), ("live", {"cache": "off"})):
        ours = replace(study, **declared)
        search(ours, out=tmp_path / name)
        prepared = prepare(ours, n_parallel=2, device=CPU, cache_dir=tmp_path / "cache")
        folder = RunFolder(tmp_path / name)
        retrained = retrain(folder, prepared, tmp_path / "cache", Choice.recorded(folder, prepared.study))
        assert retrained.n_train_images == prepared.data.train.n_images + prepared.data.val.n_images
        weights[name] = load_file(tmp_path / name / "retrained.safetensors")
    assert all(torch.equal(weights["live"][name], tensor) for name, tensor in weights["cached"].items())
    assert not all(torch.equal(weights["plain"][name], tensor) for name, tensor in weights["cached"].items())


def interrupting(epoch_to_stop_at: int) -> RecordingReporter:
    """Return a reporter that stops the run at the end of an epoch, as a user would."""
    reporter = RecordingReporter()

    def stop(epoch: int) -> None:
        if epoch == epoch_to_stop_at:
            raise KeyboardInterrupt

    reporter.on_epoch = stop
    return reporter


AUGMENTED = pytest.mark.parametrize("declared", [{"views": 2}, {"cache": "off"}], ids=["cached", "live"])


@AUGMENTED
def test_an_interrupted_run_ends_as_if_not_interrupted(
    declared: dict[str, object], small_study: Study, search: Search, tmp_path: Path
) -> None:
    study = replace(small_study, augment="flip-crop", **declared)  # type: ignore[arg-type]
    untouched = search(study, out=tmp_path / "untouched")
    with pytest.raises(KeyboardInterrupt):
        search(study, out=tmp_path / "run", reporter=interrupting(5))
    as_file = LoadedStudy("small", Path("small.py"), small_study)  # the options come from the record then
    resume_run(tmp_path / "run", as_file, storage_url=None, cache_dir=tmp_path / "cache", reporter=RecordingReporter())
    assert_same_answer(load_results(tmp_path / "run"), untouched)


@AUGMENTED
def test_every_augmented_trial_has_the_same_result_alone(
    declared: dict[str, object], small_study: Study, search: Search, tmp_path: Path
) -> None:
    study = replace(small_study, augment="flip-crop", trials=4, **declared)  # type: ignore[arg-type]
    search(study, n_parallel=3)
    for number in (0, 3):
        verification = verify_trial(tmp_path / "run", number, device=CPU, cache_dir=tmp_path / "cache")
        assert verification.kept, verification.comparisons
        assert [c.difference for c in verification.comparisons[:2]] == [0, 0]
    config = RunFolder(tmp_path / "run").config_path
    changed = config.read_text().replace("flip-crop", "flip")
    config.write_text(changed)
    with pytest.raises(SweepError, match="the augmentation flip gives other images than it did in the run"):
        verify_trial(tmp_path / "run", 0, device=CPU, cache_dir=tmp_path / "cache")


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if torch.rand(1) < 0.5 else image


def darkened(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value // 2)


def test_a_function_of_the_study_file(small_study: Study, search: Search, tmp_path: Path) -> None:
    study = replace(small_study, augment=mirrored, views=2, trials=3)
    reporter = interrupting(2)
    with pytest.raises(KeyboardInterrupt):
        search(study, reporter=reporter)
    assert "training images: a function of the study file, 2 cached views of every train image" in reporter.messages

    def resume(study: Study) -> None:
        loaded = LoadedStudy("small", Path("small.py"), study)
        resume_run(tmp_path / "run", loaded, storage_url=None, cache_dir=tmp_path / "cache", reporter=reporter)

    with pytest.raises(UsageError, match=r"declares augment = 'none', but .* began with 'a function of the study"):
        resume(small_study)
    with pytest.raises(UsageError, match="the augmentation makes other images of"):
        resume(replace(study, augment=darkened))
    resume(study)
    assert load_results(tmp_path / "run").summary["n_trials"]["complete"] == 3
    with pytest.raises(UsageError, match="Only runs whose augmentation has a name can be verified"):
        verify_trial(tmp_path / "run", 0, device=CPU, cache_dir=tmp_path / "cache")


def test_the_model_card_names_the_augmentation(small_study: Study, search: Search, tmp_path: Path) -> None:
    search(replace(small_study, augment="flip", trials=2, epochs=1))
    export_run(tmp_path / "run", tmp_path / "model", cache_dir=tmp_path / "cache")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Trained on the training data (flip, 4 cached views of every train image)." in card


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image_folder: Path, tmp_path: Path) -> Cli:
    """Run a subcommand on a small study. Return exit code, output and error, with runs of spaces made one."""
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    small = "--study lr_rank --backbone tiny-untrained --group-size 2 --trials 2 --epochs 2 --device cpu --n-parallel 2"

    def call(command: str, *options: str) -> tuple[int, str, str]:
        arguments = [command, *small.split(), "--data", str(image_folder), *options]
        monkeypatch.setattr(sys, "argv", ["sweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
        assert isinstance(ended.value.code, int)
        captured = capsys.readouterr()
        return ended.value.code, " ".join(captured.out.split()), " ".join(captured.err.split())

    return call


def test_the_plan_counts_every_view(cli: Cli) -> None:
    n_train, n_others = 39, 21
    for options, n_cached in (
        ((), n_train + n_others),
        (("--augment", "flip"), 4 * n_train + n_others),
        (("--augment", "flip", "--views", "6"), 6 * n_train + n_others),
        (("--augment", "flip", "--cache", "off"), n_others),
    ):
        code, printed, _ = cli("plan", *options)
        assert code == 0
        assert f"{n_cached} images; 0 are in the cache" in printed
        assert f"on disk for {n_cached} images" in printed
        assert ("in every epoch of a stack; they are not kept" in printed) == ("off" in options)


@pytest.fixture
def searched(tmp_path: Path) -> Path:
    """Return a study file whose `suggest` chooses the augmentation, as that of `side_networks` does."""
    file = tmp_path / "searched.py"
    file.write_text(
        "from sweep import LaneConfig, Study\n"
        "def suggest(trial):\n"
        "    augment = trial.suggest_categorical('augment', ['none', 'flip'])\n"
        "    return LaneConfig(lr=trial.suggest_float('lr', 1e-3, 1e-2), rank=2, augment=augment)\n"
        "study = Study(suggest=suggest, baseline={'lr': 2e-3, 'augment': 'none'},\n"
        "    enqueue=[{'lr': 2e-3, 'augment': 'flip'}])\n"
    )
    return file


def test_views_are_for_the_trials_that_augment(cli: Cli, searched: Path) -> None:
    """The plan shows what they cost; `verify` finds which trials have them."""
    options = ("--study", str(searched), "--trials", "3")
    code, printed, _ = cli("plan", "--views", "3", *options)
    assert code == 0
    assert "none, views None" in printed
    assert "flip, views 3" in printed
    assert "their pass" in printed
    code, _, said = cli("run", "--views", "3", "--out", "searched", *options)
    assert code == 0
    assert "flip, 3 cached views of every train image" in said
    assert "features: 39 images of train, view 3" in said
    assert "view 4" not in said
    trials = load_results(Path("searched")).trials
    assert set(trials["params_augment"]) == {"none", "flip"}
    cache_dir = Path("cache").resolve()
    for augment in ("none", "flip"):
        trial = int(trials.loc[trials["params_augment"] == augment, "trial"].iloc[0])
        assert verify_trial(Path("searched"), trial, device=CPU, cache_dir=cache_dir).kept


def test_an_option_holds_for_trials_whose_study_chooses_otherwise(cli: Cli, searched: Path) -> None:
    """Also when the run is resumed and verified."""
    options = ("--study", str(searched), "--trials", "3")
    code, printed, _ = cli("plan", "--augment", "none", *options)
    assert code == 0
    assert "views" not in printed
    code, _, said = cli("run", "--augment", "crop", "--out", "crop", *options)
    assert code == 0
    assert "training images: crop, 4 cached views" in said
    trials = load_results(Path("crop")).trials
    assert set(trials["params_augment"]) == {"crop"}
    assert load_results(Path("crop")).config["fixed"] == ["backbone", "stages", "augment"]
    assert len(trials) == 3
    cache_dir = Path("cache").resolve()
    assert verify_trial(Path("crop"), 1, device=CPU, cache_dir=cache_dir).kept
    summary = load_results(Path("crop")).summary
    Path("crop/summary.json").unlink()
    resume_run(Path("crop"), load_study(str(searched)), storage_url=None, cache_dir=cache_dir, reporter=Reporter())
    assert load_results(Path("crop")).summary["winner"] == summary["winner"]
    code, _, said = cli("run", "--augment", "none", "--views", "2", "--out", "none", *options)
    assert code == 2
    assert "views is 2 but the study does not augment" in said


def test_a_run_names_its_augmentation(cli: Cli) -> None:
    code, _, said = cli("run", "--augment", "flip-crop", "--views", "2", "--out", "cached")
    assert code == 0
    assert "training images: flip-crop, 2 cached views of every train image" in said
    assert "features: 39 images of train, view 2" in said
    assert "features: 99 of 99 images computed" in said
    code, _, said = cli("run", "--augment", "flip-crop", "--cache", "off", "--out", "live")
    assert code == 0
    assert "training images: flip-crop, fresh views in every epoch; cache off" in said
    assert "features: all 21 images from the cache" in said
    code, _, said = cli("run", "--out", "plain")
    assert code == 0
    assert "training images" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--augment flip --views 0", "views must be a whole number of at least 1, not 0 (--views, or the study file)"),
        (
            "--augment flips",
            "no augmentation 'flips': give flip, crop, colour, affine, or several of them such as",
        ),
        (
            "--views 2",
            "views is 2 but the study does not augment, so all views would be the same; give --augment flip-crop",
        ),
        ("--augment flip --views 2 --cache off", "every epoch makes new views; leave --views out"),
        ("--cache maybe", "cache must be 'on' or 'off', not 'maybe'"),
    ],
)
def test_options_that_are_refused(cli: Cli, options: str, message: str) -> None:
    for command in ("run", "plan"):
        code, _, said = cli(command, *options.split())
        assert (code, message in said, "Traceback" in said) == (2, True, False), said
