"""The end of a run: without test data, with a retrained winner, and with class weights in all its parts."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import sweep
import sweep.cli
from sweep.export.config import ModelConfig
from sweep.export.evaluated_data import evaluated_data
from sweep.export.evaluation import evaluate
from sweep.export.write import export_run
from sweep.machine.checked_files import read_weights
from sweep.records.folder import RunFolder
from sweep.records.results import load_results
from sweep.report.evidence import answers_of
from sweep.report.write import write_report
from sweep.running.resume import resume_run
from sweep.study.declaration import Study
from sweep.study.finding import LoadedStudy
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.tracking.tracker import artifacts, metrics_on_test
from sweep.verify.verify import verify_trial
from tests.conftest import draw_images, run_on, suggest

CLASSES = ["above", "below", "everywhere"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_images(tmp_path_factory.mktemp("ending") / "images", "everywhere")
    for number in range(5, 20):
        (root / "above" / f"{number}.png").unlink()  # classes of unequal size
    return root


@pytest.fixture(scope="module")
def unseen(images: Path) -> Path:
    return run_on(images, "unseen", trials=2, test=False, class_weights={"above": 2.5})


@pytest.fixture(scope="module")
def retrained(images: Path) -> Path:
    return run_on(images, "retrained", trials=3, retrain=True, class_weights="balanced")


@pytest.fixture(autouse=True)
def cache(images: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(images.parent / "cache"))
    return images.parent / "cache"


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
    captured = capsys.readouterr()
    assert not ended.value.code, captured.err
    return " ".join(captured.out.split())


def measured(model: Path, data: Path) -> dict[str, float]:
    config = ModelConfig.read(model)
    found = evaluated_data(config, str(data), split=None, cache_dir=data.parent / "cache")
    assert found.of_the_run
    assert found.part == "test"
    return evaluate(sweep.load_model(model), found, trials=[0], batch_size=8).metrics["model"]


def test_without_test_no_test_features_are_computed(
    images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from sweep.running import settings

    asked: list[str] = []
    compute = settings.compute_features

    def recorded(backbone, split, **options):  # type: ignore[no-untyped-def]
        asked.append(split.name)
        return compute(backbone, split, **options)

    monkeypatch.setattr(settings, "compute_features", recorded)
    run_on(images, "unseen-again", trials=1, test=False)
    assert set(asked) == {"train", "val"}
    run_on(images, "seen", trials=1)
    assert set(asked) == {"train", "val", "test"}


def test_a_run_without_test_says_so_everywhere(
    unseen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    results = load_results(unseen)
    assert results.summary["winner"]["test"] == results.summary["linear_probe"]["test"] == {}
    assert results.summary["n_test_images"] == 9
    shown = printed(capsys, "results", unseen)
    assert "not looked at" in shown
    assert "the test images were not looked at (--no-test)" in shown
    write_report(unseen, tmp_path / "report.html", cache_dir=cache, say=print)
    assert "told not to look at test" in (tmp_path / "report.html").read_text()
    assert metrics_on_test(RunFolder(unseen)) == {}
    export_run(unseen, tmp_path / "model", cache_dir=cache)
    assert "not evaluated on the test images" in (tmp_path / "model" / "README.md").read_text()
    shutil.copytree(unseen, tmp_path / "other")
    shown = printed(capsys, "compare", unseen, tmp_path / "other")
    assert "told not to look at test" in shown


def test_test_data_can_be_evaluated_later(unseen: Path, images: Path, tmp_path: Path, cache: Path) -> None:
    export_run(unseen, tmp_path / "model", cache_dir=cache)
    results = load_results(unseen)
    found = measured(tmp_path / "model", images)
    answers = answers_of(results, RunFolder(unseen), results.summary["winner"]["trial"], "test", cache)
    expected = answers.target.measure_one(answers.outputs, answers.labels)
    assert found["top1"] == pytest.approx(expected["top1"])
    assert found["nll"] == pytest.approx(expected["nll"], abs=2e-3)


@pytest.mark.parametrize("which", ["unseen", "retrained"])
def test_a_trial_with_class_weights_is_verified(which: str, request: pytest.FixtureRequest, cache: Path) -> None:
    run: Path = request.getfixturevalue(which)
    config = load_results(run).config
    expected = {"above": 2.5, "below": 1.0, "everywhere": 1.0} if which == "unseen" else "balanced"
    assert config["class_weights"] == expected
    row = load_results(run).trials.set_index("trial").loc[1]
    weights = json.loads(row["lane_config"])["class_weights"]
    assert weights == ([2.5, 1.0, 1.0] if which == "unseen" else "balanced")
    assert verify_trial(run, 1, device=torch.device("cpu"), cache_dir=cache).kept


def test_the_retrained_winner_is_what_is_tested_and_exported(
    retrained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    results, folder = load_results(retrained), RunFolder(retrained)
    winner, config = results.summary["winner"]["trial"], results.config
    record = json.loads((retrained / "retrained.json").read_text())
    assert record["n_train_images"] == config["splits"]["train"]["images"] + config["splits"]["val"]["images"]
    assert record["winner"] == results.summary["winner"]["test"]
    assert record["linear_probe"] == results.summary["linear_probe"]["test"]
    again, searched = read_weights(folder.retrained_path), read_weights(folder.winner_path)
    assert any(not torch.equal(again[name], searched[name]) for name in again)

    shown = printed(capsys, "export", retrained, "--to", tmp_path / "model")
    assert f"trial {winner}, trained again on train and val" in shown
    shipped = read_weights(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(again[name], shipped[f"side_networks.0.{name}"]) for name in again)
    found = measured(tmp_path / "model", images)
    assert found["top1"] == pytest.approx(record["winner"]["top1"])
    assert found["nll"] == pytest.approx(record["winner"]["nll"], abs=2e-3)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Trained again, after it was chosen, on the training and the validation data together" in card
    assert "Every class counted alike in the loss" in card
    assert f"| trial {winner}, 9 test images |" in card

    printed(capsys, "export", retrained, "--to", tmp_path / "searched", "--trial", winner)
    shipped = read_weights(tmp_path / "searched" / "model.safetensors")
    assert all(torch.equal(searched[name], shipped[f"side_networks.0.{name}"]) for name in searched)
    assert "9 test images |" not in (tmp_path / "searched" / "README.md").read_text().split("linear probe")[0]

    loaded = sweep.load_run(retrained).best.load()
    assert torch.equal(loaded.side_networks[0].state_dict()["head.norm.weight"], again["head.norm.weight"])
    assert folder.retrained_path in artifacts(folder)


def test_a_retrained_run_says_so(
    retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    assert "test: trained again on train and val; sweep export exports this winner" in printed(
        capsys, "results", retrained
    )
    write_report(retrained, tmp_path / "report.html", cache_dir=cache, say=print)
    page = (tmp_path / "report.html").read_text()
    assert "after they were trained again on train and val" in page
    assert '<td class="quiet">class weights</td><td class="long">balanced</td>' in page
    results = load_results(retrained)
    answers = answers_of(results, RunFolder(retrained), results.summary["winner"]["trial"], "test", cache)
    metrics = answers.target.measure_one(answers.outputs, answers.labels)
    assert metrics["nll"] == pytest.approx(results.summary["winner"]["test"]["nll"], abs=1e-5)


def test_a_run_killed_before_its_end_gives_the_same_results(retrained: Path, images: Path) -> None:
    expected = json.loads((retrained / "summary.json").read_text())
    (retrained / "summary.json").unlink()
    study = Study(
        suggest=suggest, baseline={"lr": 1e-2, "rank": 2}, max_rank=2, backbone="tiny-untrained", group_size=2
    )
    resume_run(
        retrained,
        LoadedStudy("drawn", Path("drawn.py"), study),
        storage_url=None,
        cache_dir=images.parent / "cache",
        reporter=LineReporter(stderr),
    )
    found = json.loads((retrained / "summary.json").read_text())
    for name in ("winner", "linear_probe", "tested", "retrained"):
        assert found[name] == expected[name]


def test_a_test_option_that_is_no_boolean_is_refused() -> None:
    with pytest.raises(sweep.UsageError, match=r"Study\.test must be True or False, not 'no'"):
        Study(suggest=suggest, baseline={}, test="no")  # type: ignore[arg-type]
