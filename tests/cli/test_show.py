"""How `sweep run` and `sweep results` compare the winner with the linear probe."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sweep import load_results
from sweep.cli.show import beside_plan, features_beside_plan, show_summary, show_trials, where_the_time_went
from sweep.records.folder import RunFolder
from sweep.study.budget import whole_seconds


@pytest.mark.parametrize(
    ("winner", "probe", "said"),
    [
        (0.6, 0.6, "winner and linear probe have the same top-1, 0.600"),
        (
            0.484,
            0.812,
            "the linear probe is ahead of the winner by 0.328 in top-1 (0.812 against 0.484); that is out",
        ),
        (
            0.812,
            0.484,
            "the winner is ahead of the linear probe by 0.328 in top-1 (0.812 against 0.484); that is out",
        ),
        (0.61, 0.6, "the winner is ahead of the linear probe by 0.010 in top-1 (0.610 against 0.600); that is within"),
    ],
)
def test_who_is_ahead_by_how_much_and_whether_it_is_noise(
    finished_run: Path, tmp_path: Path, winner: float, probe: float, said: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    path = RunFolder(run).summary_path
    summary = json.loads(path.read_text())
    summary["winner"]["test"]["top1"], summary["linear_probe"]["test"]["top1"] = winner, probe
    summary["n_test_images"] = 400
    path.write_text(json.dumps(summary))
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        show_summary(console, load_results(run), run)
    assert f"on the 400 test images, {said}" in capture.get()
    tried = "The probe trained for 12 epochs and the trials for 3: try --epochs 12"
    assert (tried in capture.get()) == (probe > winner)


@pytest.mark.parametrize(
    ("planned", "took", "trained", "said"),
    [
        (100, 149, 40, ""),
        (100, 310, 40, ". An epoch of a lane took 3.1 times as long as planned, as happens if other programs"),
        (100, 60, 10, ". An epoch of a lane took 2.4 times as long as planned"),
        (100, 200, 80, ", because lanes trained for 2.0 times as many epochs as planned"),
        (0.5, 9, 40, ""),
        (10, 5, 0, ""),
    ],
)
def test_a_slow_search_says_how_much_slower_it_was_than_planned(
    planned: float, took: float, trained: float, said: str
) -> None:
    line = beside_plan({"search_wall_seconds": planned, "lane_epochs": 40.0}, took, trained)
    start = f"the search was planned to take {whole_seconds(planned)} and took {took:.0f} s"
    assert line.startswith(start + said)
    assert bool(said) == (line != start)


def test_a_search_that_compiled_kernels_says_so_and_is_not_called_slow() -> None:
    plan = {"search_wall_seconds": 0.4, "lane_epochs": 40.0}
    said = "the search was planned to take less than 1 s and took 33 s, 32 s of them to compile kernels, which"
    line = beside_plan(plan, 33, 40, compiling_seconds=32.4)
    assert line.startswith(said)
    assert "as long as planned" not in line
    assert "took 22 s, 12 s of them" in beside_plan({**plan, "search_wall_seconds": 5}, 22, 40, compiling_seconds=12)
    slow = beside_plan({**plan, "search_wall_seconds": 10}, 62, 40, compiling_seconds=12)
    assert "An epoch of a lane took 5.0 times as long as planned" in slow


@pytest.mark.parametrize(
    ("planned", "missing", "took", "computed", "times"),
    [
        (20.0, 100, 29.0, 100, None),  # the plan is no better than that
        (5.0, 100, 14.0, 100, None),  # a short delay
        (20.0, 100, 60.0, 100, "3.0"),
        (20.0, 100, 60.0, 50, "6.0"),  # another process had computed half of them
        (20.0, 100, 60.0, 300, None),  # more images than planned, at the planned speed
        (0.0, 0, 60.0, 0, None),
    ],
)
def test_a_slow_feature_pass_says_how_much_slower_it_was_than_planned(
    planned: float, missing: int, took: float, computed: int, times: str | None
) -> None:
    plan = {"feature_wall_seconds": planned, "n_images_missing": missing}
    said = features_beside_plan(plan, took, computed)
    expected = f"the features took {times} times as long as planned (60 s instead of " if times else ""
    assert (said == "") == (times is None)
    assert said.startswith(expected)


def test_the_speed_of_workers_is_not_judged_by_a_plan_for_one_process(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    folder, console = RunFolder(run), Console(file=io.StringIO(), width=200)
    summary = json.loads(folder.summary_path.read_text())
    summary["plan"] |= {"search_wall_seconds": 10.0, "feature_wall_seconds": 20.0, "n_images_missing": 60}
    summary |= {"n_images_computed": 60, "wall_seconds": {**summary["wall_seconds"], "search": 500.0, "features": 90.0}}
    folder.write_json(folder.summary_path, summary)

    def shown() -> str:
        with console.capture() as capture:
            show_summary(console, load_results(run), run)
        return capture.get()

    alone = shown()
    assert "the features took 4.5 times as long as planned" in alone
    assert "the search was planned to take 10 s and took 500 s" in alone
    folder.write_json(folder.workers_path, {"training_seconds": 1.0, "workers": []})
    on_workers = shown()
    assert "in one process, the search was planned to take 10 s; on workers it took 500 s" in on_workers
    assert "times as long as planned" not in on_workers
    assert "the features took" not in on_workers


def test_time_beside_the_parts_of_a_run_is_named_if_it_is_long() -> None:
    parts = {"features": 1.0, "search": 20.0, "training": 18.0, "linear_probe": 2.0}
    said = "seconds: features 1.0, search 20.0 (training 18.0), linear probe 2.0, "
    assert where_the_time_went({**parts, "total": 24.0}) == f"{said}total 24.0"
    rest = "everything else 300.0 (reading data, planning, compiling kernels)"
    assert where_the_time_went({**parts, "total": 323.0}) == f"{said}{rest}, total 323.0"
    assert where_the_time_went({**parts, "total": 5.0}) == f"{said}total 5.0"  # resumed after its search


def test_a_plan_for_one_shape_is_not_compared_with_a_search_of_several() -> None:
    """Runs of 0.8.0 and earlier have such plans."""
    plan = {"search_wall_seconds": 10.0, "lane_epochs": 40.0}
    assert "if every trial had the baseline's shape" in beside_plan(plan, 90, 40, several_shapes=True)
    slower = beside_plan({**plan, "n_shapes": 3}, 90, 40, several_shapes=True)
    assert "9.0 times as long as planned" in slower
    assert "or if the sampler prefers costly shapes" in slower


def test_a_rank_is_a_whole_number_beside_trials_without_one(finished_run: Path) -> None:
    results = load_results(finished_run)
    console = Console(file=io.StringIO(), width=200)
    first = results.trials["trial"].iloc[0]
    ranks = results.trials["params_rank"].astype(float).where(results.trials["trial"] == first)
    with console.capture() as capture:
        show_trials(console, replace(results, trials=results.trials.assign(params_rank=ranks)))
    assert f"rank={ranks.dropna().iloc[0]:.0f} " in capture.get()
