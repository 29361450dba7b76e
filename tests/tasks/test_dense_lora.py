"""LoRA beside runs of segmentation and detection: the same head, loss, data and metrics."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from scenes import draw_scenes
from squares import draw_squares
from typer.testing import CliRunner

from backbones import load_backbone
from backbones.timm_vit import TimmViT
from sweep import LaneConfig, Study
from sweep.bench.dense_lora import LEARNING_RATES, LoraWithTokenHead, lora_beside_run
from sweep.cli import app
from sweep.errors import UsageError
from sweep.features.batches import training_batches
from sweep.features.views import TrainingViews
from sweep.records.folder import RunFolder
from sweep.records.results import load_results
from sweep.running.recorded import recorded_backbone, recorded_data
from sweep.running.runner import run_study
from sweep.side_networks.linear_probe import LinearProbe
from sweep.study.finding import LoadedStudy
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter

CPU = torch.device("cpu")


def run_on(data: Path, **declared: object) -> Path:
    options = {"backbone": "tiny-untrained", "group_size": 2, "epochs": 2, "batch_size": 8, "trials": 1, **declared}
    study = Study(
        suggest=lambda trial: LaneConfig(lr=1e-2, rank=2, side_network="convolution"),
        baseline={},
        data=str(data),
        class_weights="balanced",
        **options,  # type: ignore[arg-type]
    )
    folder = run_study(
        LoadedStudy("dense", Path("dense.py"), study),
        n_parallel=1,
        out=data.parent / f"run-{len(list(data.parent.iterdir()))}",
        storage_url=None,
        device_name="cpu",
        cache_dir=data.parent / "cache",
        reporter=LineReporter(stderr),
    )
    return folder.path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_scenes(tmp_path_factory.mktemp("scenes") / "scenes")


@pytest.fixture(scope="module")
def on_masks(scenes: Path) -> Path:
    return run_on(scenes)


def test_lora_is_measured_as_the_run_was(on_masks: Path, scenes: Path) -> None:
    said: list[str] = []
    found = lora_beside_run(on_masks, device=CPU, cache_dir=scenes.parent / "cache", say=said.append)
    assert found.n_configurations == len(said) == len(LEARNING_RATES) == 3
    assert found.lr in LEARNING_RATES
    for metrics in (found.val, found.test):
        assert metrics.keys() == {"winner", "linear_probe", "lora"}
        assert metrics["lora"].keys() == metrics["winner"].keys() >= {"miou", "miou_error", "nll"}
    assert any(f"{found.val['lora']['miou']:.3f}" in line for line in said)
    assert min(found.lora_seconds, found.run_seconds) > 0


def test_the_command_on_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on(draw_squares(tmp_path / "squares"), epochs=1)
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    options = ["--run", str(run), "--json", str(tmp_path / "lora.json")]
    result = CliRunner().invoke(app, ["bench", "--suite", "lora", *options])
    assert result.exit_code == 0, result.output
    assert "LoRA, best of 3" in result.output
    found = json.loads((tmp_path / "lora.json").read_text())
    assert found["score"] == "ap"
    assert 0 <= found["test"]["lora"]["ap"] <= 1


@pytest.mark.parametrize(("detects", "head_stages"), [(False, 1), (True, 1), (False, 2)])
def test_lora_starts_as_the_probe_of_every_token(tmp_path: Path, detects: bool, head_stages: int) -> None:
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)
    assert isinstance(backbone, TimmViT)
    module = LoraWithTokenHead(backbone, 3, 2, detects=detects, head_stages=head_stages)
    with torch.no_grad():
        for weight in module.head.earlier:
            weight.normal_()
    images = torch.randn(2, 3, backbone.transform.image_size, backbone.transform.image_size)
    outputs = module([images])
    n_outputs = 4 * (3 + 4) if detects else 3
    assert outputs.shape == (2, backbone.tokens - backbone.n_prefix_tokens, n_outputs)
    probe = LinearProbe(
        backbone.width,
        n_outputs,
        n_prefix_tokens=backbone.n_prefix_tokens,
        dense=True,
        earlier_widths=[backbone.width] * (head_stages - 1),
    )
    probe.head.load_state_dict(module.head.state_dict())
    with torch.no_grad():
        earlier = backbone(images)[-head_stages:-1]
        expected = probe([*earlier, backbone.network.forward_features(images)])
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    trained = {name.split(".")[0] for name, own in module.named_parameters() if own.requires_grad}
    assert trained == {"network", "head"}
    assert all("lora" in n for n, own in module.named_parameters() if own.requires_grad and n.startswith("network"))


def test_runs_that_cannot_be_compared_are_refused(scenes: Path) -> None:
    augmented = run_on(scenes, augment="flip", cache="off", epochs=1)
    with pytest.raises(UsageError, match=r"learned from fresh views in every epoch .* cannot be compared"):
        lora_beside_run(augmented, device=CPU, cache_dir=scenes.parent / "cache", say=print)


def test_lora_learns_from_the_views_of_the_run(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_on(scenes, augment="flip-crop", views=2, epochs=3)
    seen: list[torch.Tensor] = []

    def watched(self: LoraWithTokenHead, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if torch.is_grad_enabled():
            seen.append(inputs[0].detach().clone())
        return forward(self, inputs)

    forward = LoraWithTokenHead.forward
    monkeypatch.setattr(LoraWithTokenHead, "forward", watched)
    cache_dir = scenes.parent / "cache"
    lora_beside_run(run, device=CPU, cache_dir=cache_dir, say=lambda line: None, learning_rates=[1e-3])
    config = load_results(run).config
    data = recorded_data(config, cache_dir, splits=["train"])
    backbone = recorded_backbone(config, cache_dir)
    augmented = Study(suggest=lambda trial: LaneConfig(lr=1e-3), baseline={}, augment="flip-crop", views=2)
    views = TrainingViews.of(augmented, data.train, backbone.transform).cached(data.train)
    n_steps = -(-data.train.n_images // config["batch_size"])
    assert len(seen) == 3 * n_steps
    for epoch, view in enumerate([*views, views[0]]):
        order = torch.cat(
            list(training_batches(len(data.train.labels), config["batch_size"], config["seed"], epoch + 1))
        )
        expected = torch.stack([backbone.transform(view.open(int(index))) for index in order])
        assert torch.equal(torch.cat(seen[epoch * n_steps : (epoch + 1) * n_steps]), expected)


def test_a_loss_of_a_study_file_is_refused_before_anything_is_trained(on_masks: Path, scenes: Path) -> None:
    run = scenes.parent / "own-loss"
    shutil.copytree(on_masks, run)
    table = RunFolder.open(run).trials_path
    trials = pd.read_parquet(table)
    trials["lane_config"] = [
        json.dumps({**json.loads(recorded), "loss": "own:tversky:0123456789ab"}) for recorded in trials["lane_config"]
    ]
    trials.to_parquet(table)
    said: list[str] = []
    with pytest.raises(UsageError, match="learned with tversky, a loss of its study file, and LoRA learns with"):
        lora_beside_run(run, device=CPU, cache_dir=scenes.parent / "cache", say=said.append)
    assert not said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--suite", "lora"], "give the run's folder with --run"),
        (["--suite", "lora", "--run", "FOLDER"], "is not a run folder"),
        (["--suite", "lora", "--run", "FOLDER", "--rank", "4"], "give --run, --device and --json only"),
        (["--suite", "quick", "--run", "FOLDER"], "--run belongs to --suite lora"),
    ],
)
def test_what_cannot_be_run_is_one_clear_error(scenes: Path, arguments: list[str], named: str) -> None:
    given = [str(scenes) if argument == "FOLDER" else argument for argument in arguments]
    result = CliRunner().invoke(app, ["bench", *given])
    assert isinstance(result.exception, UsageError)
    assert named in str(result.exception)
