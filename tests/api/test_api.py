"""The Python interface: running a study, and what `sweep.Run` offers in a notebook."""

import subprocess
import sys
from contextlib import ExitStack
from datetime import datetime, tzinfo
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from plotly.graph_objects import Figure

import sweep
from sweep import LaneConfig, Study, SweepError, UsageError
from sweep.api.run import new_run_folder
from sweep.data import load_data
from sweep.records.reporter import Reporter
from sweep.tasks.metrics import classification_metrics


@pytest.fixture(autouse=True)
def _cache(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))


@pytest.fixture
def run(finished_run: Path) -> sweep.Run:
    return sweep.load_run(finished_run)


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2)


def tiny(images: Path, **declared: Any) -> Study:
    base: dict[str, Any] = {"suggest": suggest, "baseline": {"lr": 1e-2}, "max_rank": 2, "backbone": "tiny-untrained"}
    return Study(**base, data=str(images), group_size=2, trials=3, epochs=2, batch_size=16, **declared)


def test_importing_sweep_imports_nothing_heavy() -> None:
    script = "import sys, sweep; print([name for name in ('torch', 'pandas', 'optuna', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in sweep.__all__:
        assert getattr(sweep, name).__name__ == name
    assert set(sweep.__all__) <= set(dir(sweep))
    with pytest.raises(AttributeError, match="has no attribute 'sweeep'"):
        _ = sweep.sweeep


def test_the_version_is_that_of_the_package_and_is_looked_up_when_it_is_used() -> None:
    script = "import sweep; print('__version__' in vars(sweep), '__version__' in dir(sweep), sweep.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"False True {version('sweep')}\n"


def test_tables_of_a_run(run: sweep.Run, finished_run: Path) -> None:
    results = sweep.load_results(finished_run)
    pd.testing.assert_frame_equal(run.trials, results.trials)
    pd.testing.assert_frame_equal(run.curves, results.curves)
    assert run.summary == results.summary
    assert run.best.number == results.summary["winner"]["trial"]
    assert run.best.params == results.summary["winner"]["params"]
    assert repr(run) == f"<sweep run {finished_run}: 4 trials, 4 complete>"
    assert f"<trial {run.best.number}: val_top1 " in repr(run.best)


def test_best_is_a_module_that_repeats_the_numbers_of_the_table(run: sweep.Run) -> None:
    model = run.best.load()
    val = load_data(run.results.config["data"], seed=0, cache_dir=Path("unused")).val
    with torch.no_grad():
        logits = model(torch.stack([model.transform(val.open(i)) for i in range(val.n_images)]))
    metrics = classification_metrics(logits.unsqueeze(0), torch.from_numpy(val.labels))
    assert metrics["nll"].item() == pytest.approx(run.best.row["val_nll"], abs=2e-3)
    other = run.trial(int(run.trials["trial"].iloc[-1]))
    assert not torch.equal(other.load()(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32)))
    with pytest.raises(UsageError, match="has no trial 9"):
        run.trial(9)


def test_export_of_a_trial(run: sweep.Run, tmp_path: Path) -> None:
    run.trial(0).export(tmp_path / "shipped")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sweep.load_model(tmp_path / "shipped")(images), run.trial(0).load()(images))


def test_figures(run: sweep.Run) -> None:
    names = ("trials", "curves", "parallel_coordinates", "slices", "confusion", "calibration")
    for name in names:
        figure = getattr(run.plot, name)()
        assert isinstance(figure, Figure)
        assert figure.data, name
    with pytest.raises(SweepError, match="needs 10 complete trials that have a parameter"):
        run.plot.importances()
    others = {
        "folder",
        "results",
        "storage",
        "backbone",
        "data",
        "importances",
        "predictions",
    }  # `predictions` needs a regression
    assert {name for name in dir(run.plot) if not name.startswith("_")} == {*names, *others}
    with pytest.raises(UsageError, match=r"plot\.predictions\(\) needs the task regression, and that of .* is classes"):
        run.plot.predictions()


def test_a_run_shows_itself_in_a_notebook(run: sweep.Run) -> None:
    html = run._repr_html_()
    assert f"winner, trial {run.best.number}" in html
    assert f"{run.summary['winner']['test']['top1']:.3f} ±" in html
    assert "<img src=x" not in html, "names that the user chose are escaped"
    assert html.count("<tr>") > 4


def test_run_of_a_study_object(finished_run: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Reporter):
        def message(self, text: str) -> None:
            said.append(text)

    study = tiny(finished_run.parent / "images")
    options: dict[str, Any] = {"n_parallel": 2, "device": "cpu", "reporter": Listener()}
    run = sweep.run(study, out=tmp_path / "first", enqueue=[{"lr": 0.05}], epochs=1, **options)
    assert (run.trials["epochs"] == 1).all()
    assert run.trial(1).params == {"lr": 0.05}
    assert run.results.config["study_file"] == __file__
    assert said[-1].startswith("reference: tuning a linear probe")
    with pytest.raises(UsageError, match="is not empty"):
        sweep.run(study, out=tmp_path / "first", **options)


def test_wrong_requests_are_refused(finished_run: Path, tmp_path: Path) -> None:
    study = tiny(finished_run.parent / "images")
    with pytest.raises(UsageError, match=r"sweep.run\(\) has no argument 'epoch', and a study declares .*epochs"):
        sweep.run(study, out=tmp_path / "run", epoch=1)
    with pytest.raises(UsageError, match=r"no study 'lr_rnk'.*did you mean lr_rank"):
        sweep.run("lr_rnk")
    with pytest.raises(UsageError, match="is not a run folder"):
        sweep.load_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_complete_trials(finished_run: Path, tmp_path: Path) -> None:
    study = tiny(finished_run.parent / "images")

    class Interrupting(Reporter):
        def step(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(study, out=tmp_path / "run", n_parallel=2, device="cpu", reporter=Interrupting())
    run = sweep.load_run(tmp_path / "run")
    assert set(run.trials["state"]) == {"RUNNING"}
    assert "2 running" in run._repr_html_()
    with pytest.raises(SweepError, match=r"no trial of .* is complete"):
        _ = run.best
    with pytest.raises(SweepError, match="needs two complete trials"):
        run.plot.parallel_coordinates()


def test_runs_that_begin_in_the_same_second_get_separate_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweep.api.run.datetime", Clock)
    names = ["mine-20260102-030405", "mine-20260102-030405-2", "mine-20260102-030405-3"]
    with ExitStack() as at_once:
        for name in names:
            assert at_once.enter_context(new_run_folder("mine", None)) == Path("runs") / name
        (tmp_path / "runs" / names[1] / "config.json").write_text("{}")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [names[1]], "empty run folders are removed"
