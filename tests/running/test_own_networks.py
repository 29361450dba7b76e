"""A study file's own side-network can be run, resumed, planned, verified, reported, exported and loaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sweep
from sweep.api.run import run as run_study
from sweep.errors import UsageError
from sweep.export.write import export_run
from sweep.report.write import write_report
from sweep.running.planner import plan_features, plan_study
from sweep.running.preparation import prepare
from sweep.running.resume import resume_run
from sweep.side_networks import own_networks
from sweep.side_networks.given import take_own_code
from sweep.study.finding import load_study
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import Shapes
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial

STUDY = """
import torch
from torch import nn

from sweep import LaneConfig, Study
from sweep.side_networks.head import Head


class TwoLayers(nn.Module):
    def __init__(self, shapes, n_classes, config):
        super().__init__()
        self.body = nn.Linear(shapes.widths[0], shapes.widths[-1], bias=config.extra["bias"])
        self.head = Head(shapes.widths[-1], n_classes, pool="mean", n_prefix_tokens=shapes.n_prefix_tokens)

    def forward(self, stages):
        return self.head(self.head.pool(stages[-1]) + torch.relu(self.body(self.head.pool(stages[0]))))


def suggest(trial):
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), extra={"bias": BIAS, "note": "mine"}, dropout=0.1
    )


study = Study(
    suggest=suggest,
    baseline={"lr": 1e-2},
    side_network=TwoLayers,
    backbone="tiny-untrained",
    group_size=2,
    epochs=2,
    batch_size=16,
    trials=2,
)
"""


@pytest.fixture(scope="module")
def own_run(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run folder and its study file."""
    root = tmp_path_factory.mktemp("own")
    file = root / "mine.py"
    file.write_text(STUDY.replace("BIAS", "True"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE_DIR", str(drawn_images.parent / "cache"))
        run_study(file, n_parallel=2, out=root / "run", data=str(drawn_images), device="cpu")
    return root / "run", file


@pytest.fixture
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the given study files, as in another process."""
    monkeypatch.setattr(own_networks, "_given", {})


@pytest.mark.usefixtures("nothing_given")
def test_a_trial_is_verified_if_the_study_file_is_given(own_run: tuple[Path, Path], drawn_images: Path) -> None:
    run, file = own_run
    options: Mapping[str, Any] = {"device": torch.device("cpu"), "cache_dir": drawn_images.parent / "cache"}
    with pytest.raises(UsageError, match="a file is executed only if you give it"):
        verify_trial(run, 0, **options)
    verification = verify_trial(run, 0, own_study=file, **options)
    assert verification.kept
    assert "weights" in [comparison.what for comparison in verification.comparisons], "the kept weights are compared"


@pytest.mark.usefixtures("nothing_given")
def test_a_model_is_exported_and_loaded_if_the_study_file_is_given(
    own_run: tuple[Path, Path], drawn_images: Path, tmp_path: Path
) -> None:
    run, file = own_run
    with pytest.raises(UsageError, match="the side-network TwoLayers is from a study file whose SHA-256 begins with"):
        export_run(run, tmp_path / "shipped", cache_dir=drawn_images.parent / "cache")
    take_own_code(file)
    export_run(run, tmp_path / "shipped", cache_dir=drawn_images.parent / "cache")
    own_networks._given.clear()
    with pytest.raises(UsageError, match=r"sweep.load_model\(…, study=FILE\)"):
        sweep.load_model(tmp_path / "shipped")
    model = sweep.load_model(tmp_path / "shipped", study=file)
    assert type(model.side_networks[0]).__name__ == "TwoLayers"
    card = (tmp_path / "shipped" / "README.md").read_text()
    assert f'sweep.load_model(".", study="{file.name}")' in card
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert str(file.parent) not in (tmp_path / "shipped" / "config.json").read_text()
    changed = tmp_path / "mine.py"
    changed.write_text(file.read_text() + "\n# changed\n")
    own_networks._given.clear()
    with pytest.raises(UsageError, match="with the unchanged file"):
        sweep.load_model(tmp_path / "shipped", study=changed)


def test_a_run_can_be_resumed(own_run: tuple[Path, Path], drawn_images: Path) -> None:
    run, file = own_run
    before = sweep.load_results(run)
    (run / "summary.json").unlink()
    resume_run(
        run,
        load_study(str(file)),
        storage_url=None,
        cache_dir=drawn_images.parent / "cache",
        reporter=LineReporter(stderr),
    )
    after = sweep.load_results(run)
    assert after.summary["winner"]["test"] == before.summary["winner"]["test"]
    assert after.config["side_network"] == "a side-network of the study file"


@pytest.mark.usefixtures("nothing_given")
def test_a_report_shows_the_winners_errors_if_the_study_file_is_given(
    own_run: tuple[Path, Path], drawn_images: Path, tmp_path: Path
) -> None:
    run, file = own_run
    said: list[str] = []
    options: Mapping[str, Any] = {"cache_dir": drawn_images.parent / "cache", "say": said.append}
    assert "confusion" not in write_report(run, tmp_path / "report.html", **options)
    assert "only if you give them: --study FILE" in said[-1]
    take_own_code(file)
    assert "confusion" in write_report(run, tmp_path / "report.html", **options)


def test_a_plan_measures_what_a_lane_costs(drawn_images: Path, tmp_path: Path) -> None:
    """The cost of a side-network of the study's own is not known beforehand: a larger one has a larger plan."""
    cache_dir, plans = drawn_images.parent / "cache", []
    once = "self.body(self.head.pool(stages[0]))"
    for name, computed in (("small", once), ("large", f"self.body({once})")):
        file = tmp_path / f"{name}.py"
        file.write_text(STUDY.replace("BIAS", "True").replace(once, computed))
        study = replace(load_study(str(file)).study, data=str(drawn_images))
        prepared = prepare(study, n_parallel=2, device=torch.device("cpu"), cache_dir=cache_dir)
        plans.append(plan_study(plan_features(prepared, cache_dir), prepared))
    assert 0 < plans[0].multiply_adds < plans[1].multiply_adds
    assert 0 < plans[0].bytes_per_lane < plans[1].bytes_per_lane


def test_lanes_of_other_shapes_give_one_clear_error(drawn_images: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STUDY.replace("BIAS", "trial.number == 0"))
    with pytest.raises(UsageError, match=r"weights of the same shapes.*body.bias"):
        run_study(file, n_parallel=2, out=tmp_path / "run", data=str(drawn_images), device="cpu")


RANKS = (
    STUDY.replace("bias=config.extra", "bias=config.rank > 4 and config.extra")
    .replace("BIAS", "True")
    .replace("dropout=0.1", 'dropout=0.1, rank=trial.suggest_categorical("rank", [4, 8])')
    .replace('baseline={"lr": 1e-2}', 'baseline={"lr": 1e-2, "rank": 8}, RANK_BUCKETS sampler="random"')
)
"""A study whose side-network has a bias at rank 8 only."""


def test_ranks_that_decide_the_shapes_are_refused_early_unless_they_train_apart(
    drawn_images: Path, tmp_path: Path, cache_dir: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(RANKS.replace("RANK_BUCKETS", "rank_buckets=(8,),"))
    said = r"body\.bias .*configurations differ in rank \(8 and 4\)\. If .*: rank_buckets=\(4, 8\) in the study"
    options: Mapping[str, Any] = {"data": str(drawn_images), "device": "cpu", "trials": 6}
    with pytest.raises(UsageError, match=said):
        run_study(file, n_parallel=4, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists(), "nothing was computed"
    file.write_text(RANKS.replace("RANK_BUCKETS", "rank_buckets=(4, 8),"))
    trials = run_study(file, n_parallel=4, out=tmp_path / "run", **options).trials
    assert set(trials["params_rank"]) == {4, 8}
    assert set(trials["state"]) == {"COMPLETE"}


def test_lanes_that_differ_in_more_than_tensors_give_one_clear_error(drawn_images: Path, tmp_path: Path) -> None:
    """The code of one lane runs for all lanes. The values of the others would be ignored."""
    file = tmp_path / "mine.py"
    study = STUDY.replace("BIAS", "True").replace('"mine"', "str(trial.number)")
    file.write_text(study.replace("self.body =", 'self.note = config.extra["note"]\n        self.body ='))
    with pytest.raises(UsageError, match=r"differ in TwoLayers.note: '0' in one and '1' in another. Keep it"):
        run_study(file, n_parallel=2, out=tmp_path / "run", data=str(drawn_images), device="cpu")


MAKES_HEAD, RETURNS = "self.head = Head(", "return self.head("


@pytest.mark.parametrize(
    ("replaced", "by", "message"),
    [
        ('config.extra["bias"]', 'config.extra["bais"]', r"failed: KeyError: 'bais' \(.*mine.py, line"),
        (MAKES_HEAD, f"self.again = self.body; {MAKES_HEAD}", "under two names, body.weight and again.weight"),
        (MAKES_HEAD, f"self.register_buffer('b', torch.ones(2)); {MAKES_HEAD}", "has the buffer b, whose values"),
        (MAKES_HEAD, f"self.norm = nn.BatchNorm1d(3); {MAKES_HEAD}", "norm.running_mean.*track_running_stats=False"),
        (MAKES_HEAD, f"self.body.weight.requires_grad_(False); {MAKES_HEAD}", "does not train body.weight"),
        (MAKES_HEAD, f"self.spare = nn.Linear(2, 2); {MAKES_HEAD}", "do not depend on spare.weight, spare.bias"),
        (MAKES_HEAD, f"self.double(); {MAKES_HEAD}", "has body.weight in torch.float64"),
        (RETURNS, "return stages[-1] + 0 * self.head(", "failed: RuntimeError: The size of tensor"),
        (RETURNS, f"return stages[-1]\n        {RETURNS}", r"3 outputs for each of 4 images.*\(4, 17, 32\)"),
        (RETURNS, f"self.body.weight.sum().item()\n        {RETURNS}", r"item\(\).*vmap runs the code"),
    ],
)
def test_a_wrong_side_network_is_refused_before_features_are_computed(
    replaced: str, by: str, message: str, drawn_images: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STUDY.replace("BIAS", "True").replace(replaced, by))
    with pytest.raises(UsageError, match=message):
        run_study(file, n_parallel=2, out=tmp_path / "run", data=str(drawn_images), device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_module_without_weights_is_refused() -> None:
    family = own_networks.own_family(lambda shapes, n_classes, config: torch.nn.ReLU())
    with pytest.raises(UsageError, match="there is nothing to train"):
        own_networks.own_module(family, Shapes((4,), 2, 0), 2, LaneConfig(lr=1e-3))


def test_a_file_without_a_side_network_is_refused() -> None:
    with pytest.raises(UsageError, match="has no side-network and no loss of its own: its side_network is 'last'"):
        take_own_code("lr_rank")


def test_extra_values_make_configurations_differ_and_are_checked() -> None:
    a, b, c = (LaneConfig(lr=1e-3, extra=extra) for extra in ({"k": 1}, {"k": 1}, {"k": 2}))
    assert a == b != c
    assert hash(a) == hash(b)
    assert len({a, b, c}) == 2
    for extra in ({1: 2}, {"k": [1]}, {"k": float("nan")}, 3):
        with pytest.raises(UsageError, match=r"LaneConfig.extra must map names to numbers, texts or booleans"):
            LaneConfig(lr=1e-3, extra=extra)  # type: ignore[arg-type]
