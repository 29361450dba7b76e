"""Runs of every family of side-networks, from the plan to the exported model."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from rich.console import Console

import sweep
from sweep.cli.plan import show_plan
from sweep.cli.show import show_trials
from sweep.errors import UsageError
from sweep.export.write import export_run
from sweep.machine.checked_files import read_json
from sweep.records.folder import RunFolder
from sweep.running.planner import plan_features, plan_study
from sweep.running.preparation import prepare
from sweep.running.resume import resume_run
from sweep.running.runner import run_study
from sweep.side_networks.gated import RANK_GATES
from sweep.study.declaration import Study
from sweep.study.finding import LoadedStudy
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import SIDE_NETWORKS
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial

CPU = torch.device("cpu")
BASELINE = {"lr": 1e-2, "rank": 4}
STRUCTURES: dict[str, dict[str, Any]] = {
    "granular_last": {"side_network": "granular_last", "parts": 2},
    "ladder": {"side_network": "ladder", "attention": True, "mlp": False, "read_out": "tokens"},
    "class": {"side_network": "ladder", "read_out": "class"},
    "convolution": {"side_network": "convolution", "read_out": "both"},
    "attention pooling": {"side_network": "convolution", "read_out": "attention"},
    "full_convolution": {"side_network": "full_convolution", "read_out": "both"},
    "mixer": {"side_network": "mixer"},
    "multi_stage": {"side_network": "multi_stage"},
    "probe": {"side_network": "probe"},
}


def suggest(trial: optuna.Trial) -> LaneConfig:
    """Ranks are even, for two parts, and above 2: LayerNorm over two channels leaves little more than a sign."""
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [4, 6])
    )


def suggest_granular(trial: optuna.Trial) -> LaneConfig:
    """Ranks of which two parts together have the ranks that other tests have compiled already."""
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [2, 4])
    )


def study_on(images: Path, **declared: Any) -> Study:
    options = {"suggest": suggest, "baseline": BASELINE, **declared}
    return Study(backbone="tiny-untrained", data=str(images), group_size=2, batch_size=16, **options)


def run_of(study: Study, images: Path, name: str) -> Path:
    """Run a study into a folder called `name` beside the images."""
    folder = run_study(
        LoadedStudy("drawn", Path("drawn.py"), study),
        n_parallel=2,
        out=images.parent / name,
        storage_url=None,
        device_name="cpu",
        cache_dir=images.parent / "cache",
        reporter=LineReporter(stderr),
    )
    return folder.path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(structure, id=name, marks=pytest.mark.slow if name in ("class", "probe") else ())
        for name, structure in STRUCTURES.items()
    ],
)
def family_run(request: pytest.FixtureRequest, drawn_images: Path) -> tuple[Path, Mapping[str, Any]]:
    name = "-".join(map(str, request.param.values()))
    space = {"suggest": suggest_granular} if "parts" in request.param else {}
    study = study_on(drawn_images, epochs=3, trials=2, **space, **request.param)
    return run_of(study, drawn_images, name), request.param


def test_a_run_is_verified_exported_and_loaded(family_run: tuple[Path, Mapping[str, Any]], tmp_path: Path) -> None:
    run, declared = family_run
    cache = run.parent / "cache"
    config = read_json(run / "config.json")
    assert {name: config[name] for name in declared} == declared
    assert verify_trial(run, 1, device=CPU, cache_dir=cache).kept
    winner = sweep.load_results(run).summary["winner"]
    assert 0 <= winner["test"]["top1"] <= 1
    export_run(run, tmp_path / "shipped", torch_export=True, cache_dir=cache)
    model = sweep.load_model(tmp_path / "shipped")
    assert winner["trainable_parameters"] == sum(p.numel() for p in model.side_networks.parameters())
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert f"family {declared['side_network']}" in card


def test_a_model_with_learned_ranks_has_only_those_that_are_left(drawn_images: Path, tmp_path: Path) -> None:
    def suggest_penalty(trial: optuna.Trial) -> LaneConfig:
        return LaneConfig(lr=0.1, rank=6, rank_penalty=trial.suggest_float("rank_penalty", 1e-3, 10, log=True))

    declared = {"epochs": 4, "trials": 2, "side_network": "gated_last"}
    space = {"suggest": suggest_penalty, "baseline": {"rank_penalty": 0.5}}
    run = run_of(study_on(drawn_images, **declared, **space), drawn_images, "gated")
    cache = run.parent / "cache"
    results = sweep.load_results(run)
    row = results.trials.set_index("trial").loc[0]
    assert 0 <= row["effective_rank"] < 6
    assert "effective_rank" not in results.summary["winner"]["val"]
    console = Console(record=True, width=120)
    show_trials(console, results)
    assert "ranks left" in console.export_text()
    assert verify_trial(run, 0, device=CPU, cache_dir=cache).kept
    export_run(run, tmp_path / "shipped", trial=0, torch_export=True, cache_dir=cache)
    side_network = sweep.load_model(tmp_path / "shipped").side_networks[0]
    n_ranks = [len(p) for name, p in side_network.named_parameters() if name.endswith(RANK_GATES)]
    assert sum(n_ranks) / len(n_ranks) == row["effective_rank"]
    n_parameters = sum(p.numel() for p in side_network.parameters())
    assert n_parameters < row["trainable_parameters"]
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert f"{sum(n_ranks)} of {6 * len(n_ranks)} ranks are left, and {n_parameters:,} parameters" in card


def test_a_run_of_a_family_can_be_resumed(drawn_images: Path) -> None:
    """A resumed run takes its side-network from the run's options, not from the study file."""
    declared = {"epochs": 3, "trials": 2, "side_network": "ladder", "read_out": "both"}
    run = run_of(study_on(drawn_images, **declared), drawn_images, "whole")
    expected = sweep.load_results(run).trials
    (run / "summary.json").unlink()
    study = Study(suggest=suggest, baseline=BASELINE, backbone="tiny-untrained", data=str(drawn_images))
    resume_run(
        run,
        LoadedStudy("drawn", Path("drawn.py"), study),
        storage_url=None,
        cache_dir=run.parent / "cache",
        reporter=LineReporter(stderr),
    )
    columns = ["trial", "val_top1", "val_nll", "trainable_parameters"]
    assert sweep.load_results(run).trials[columns].equals(expected[columns])
    assert read_json(RunFolder.open(run).config_path)["side_network"] == "ladder"


def test_a_plan_counts_what_a_lane_costs(drawn_images: Path, tmp_path: Path) -> None:
    plans = {}
    wanted = (("probe", False), ("ladder", False), ("ladder", True), ("mixer", False), ("last", False))
    for family, attention in (*wanted, ("granular_last", False)):
        study = study_on(drawn_images, side_network=family, attention=attention)
        prepared = prepare(study, n_parallel=4, device=CPU, cache_dir=drawn_images.parent / "cache")
        plans[family, attention] = plan_study(plan_features(prepared, drawn_images.parent / "cache"), prepared)
    probe, ladder, attentive, mixer, last, granular = plans.values()
    assert 0 < probe.multiply_adds < ladder.multiply_adds < attentive.multiply_adds
    assert 0 < probe.bytes_per_lane < ladder.bytes_per_lane < attentive.bytes_per_lane
    assert (ladder.form, mixer.form, last.form) == ("shared products", "direct", "rank space")
    assert last.bytes_per_lane < granular.bytes_per_lane
    assert last.multiply_adds < granular.multiply_adds
    assert ladder.direct_work_ratio is None
    assert last.direct_work_ratio is not None
    console = Console(record=True, width=120)
    show_plan(console, ladder)
    assert "million multiply-adds, a lane and an image" in console.export_text()


@pytest.mark.parametrize("family", SIDE_NETWORKS)
def test_a_plan_has_room_for_the_weights_of_every_family(family: str, drawn_images: Path) -> None:
    cache_dir = drawn_images.parent / "cache"
    prepared = prepare(study_on(drawn_images, side_network=family), n_parallel=4, device=CPU, cache_dir=cache_dir)
    plan = plan_study(plan_features(prepared, cache_dir), prepared)
    module = prepared.spec.plain(rank=4)
    n_weights = sum(own.numel() for own in module.parameters() if own.dim() > 1)
    assert plan.multiply_adds >= n_weights  # every weight is used for every image
    assert plan.bytes_per_lane >= 4 * 4 * n_weights  # the weight, its gradient and two moments, in fp32


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"side_network": "lader"}, "side_network must be one of last, granular_last, .* not 'lader'"),
        ({"attention": 1}, "attention must be True or False, not 1"),
        ({"read_out": "all"}, "read_out must be one of pooled, attention, .* not 'all'"),
    ],
)
def test_an_unknown_structure_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(study_on(Path("images")), **declared)


def test_an_unsupported_read_out_is_refused_before_anything_is_computed(drawn_images: Path) -> None:
    study = study_on(drawn_images, side_network="mixer", read_out="tokens")
    with pytest.raises(UsageError, match="--read-out tokens is for ladder and convolution"):
        prepare(study, n_parallel=4, device=CPU, cache_dir=drawn_images.parent / "cache")


def test_a_record_from_before_families_is_verified(finished_run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for file in finished_run.iterdir():
        if file.is_file():
            (old / file.name).write_bytes(file.read_bytes())
    config = read_json(old / "config.json")
    for name in ("side_network", "attention", "mlp", "read_out", "parts", "head_stages", "head_cells"):
        del config[name]
    (old / "config.json").write_text(json.dumps(config))
    assert verify_trial(old, 0, device=CPU, cache_dir=finished_run.parent / "cache").kept


def test_lanes_of_several_families_train_in_one_search(drawn_images: Path, tmp_path: Path) -> None:
    """Each family has its own stack. Each trial is verified with its own family."""

    def families(trial: optuna.Trial) -> LaneConfig:
        family = trial.suggest_categorical("side_network", ["probe", "ladder", "last"])
        read_out = "tokens" if family == "ladder" else "pooled"
        return LaneConfig(lr=1e-2, rank=4, side_network=family, read_out=read_out)

    grid = {"side_network": ["probe", "ladder", "last"]}
    declared = {"suggest": families, "baseline": {"side_network": "probe"}, "sampler": "grid", "grid": grid}
    run = run_of(study_on(drawn_images, epochs=2, trials=3, **declared), drawn_images, "several")
    cache = drawn_images.parent / "cache"
    trials = sweep.load_results(run).trials
    assert set(trials["params_side_network"]) == set(grid["side_network"])
    for row in trials.to_dict("records"):
        assert verify_trial(run, row["trial"], device=CPU, cache_dir=cache).kept
        export_run(run, tmp_path / str(row["trial"]), trial=row["trial"], cache_dir=cache)
        card = (tmp_path / str(row["trial"]) / "README.md").read_text()
        assert f"family {row['params_side_network']}" in card
