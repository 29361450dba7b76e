"""Backbones with levels, such as ResNets: their stages equal timm's, are cached side by side, and can be trained on."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

import sweep
from backbones import load_backbone
from backbones.frozen import pooled_tokens
from backbones.packaged_efficientnet import WEIGHTS, convert_state_dict
from sweep import LaneConfig, Study
from sweep.bench.workload import Sizes, Workload
from sweep.data import load_data
from sweep.errors import SweepError, UsageError
from sweep.export.write import export_run
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.features.resident import ResidentStageData
from sweep.machine.memory import available_bytes
from sweep.records.results import load_results
from sweep.report.compare import compare_runs
from sweep.report.write import write_report
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("test_resnet", [1, 2, 3, 4]),
        ("densenet121", [1, 2, 3]),  # timm returns the last level after a norm
        ("test_convnext", [0, 1, 2, 3]),
        ("swin_tiny_patch4_window7_224", [0, 1, 2, 3]),
        ("test_efficientnet", [0, 1, 2, 3, 4]),
        ("regnetx_002", [1, 2, 3, 4]),
    ],
)
def test_stages_equal_timms_at_the_end_of_each_level(tmp_path: Path, name: str, levels: list[int]) -> None:
    backbone = load_backbone(f"untrained:{name}", group_size=99, image_size=64, cache_dir=tmp_path)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        grids = backbone.network.forward_intermediates(images, intermediates_only=True)
    stages = backbone.stages(images)[1:]
    assert backbone.tokens == 4
    for stage, level in zip(stages, levels, strict=False):
        torch.testing.assert_close(stage, pooled_tokens(grids[level], (2, 2)), rtol=1e-5, atol=1e-6)


def test_unsuitable_image_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"image size 16 is too small for .* give 32 or more"):
        load_backbone("untrained:test_resnet", image_size=16, cache_dir=tmp_path)
    file = tmp_path / "mine.py"
    options = "embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)"
    file.write_text(
        f"import timm\ndef build():\n    return timm.create_model('swin_tiny_patch4_window7_224', {options})\n"
    )
    with pytest.raises(UsageError, match=r"mine\.py:build' does not take images of 64 px: Input height"):
        load_backbone(f"{file}:build", image_size=64, cache_dir=tmp_path)


def test_packaged_efficientnet_knows_more_than_random_weights(cache_dir: Path) -> None:
    """On digits, the nearest class mean at the sixth level is more accurate than with random weights."""
    data = load_data("mnist", seed=0, cache_dir=cache_dir)
    accuracy = []
    for name in ("efficientnet_lite0", "untrained:tf_efficientnet_lite0"):
        backbone = load_backbone(name, group_size=4, image_size=96, cache_dir=cache_dir)
        means = []
        for split in (data.train, data.val):
            indices = range(0, split.n_images, split.n_images // 60)
            images = torch.stack([backbone.transform(split.open(index)) for index in indices])
            means.append((backbone.stages(images)[6].mean(1), torch.from_numpy(split.labels[list(indices)])))
        (train, train_labels), (val, val_labels) = means
        centres = torch.stack([train[train_labels == label].mean(0) for label in range(10)])
        accuracy.append((torch.cdist(val, centres).argmin(1) == val_labels).float().mean().item())
    assert accuracy[0] > accuracy[1] + 0.1
    assert accuracy[0] > 0.5


def test_another_network_in_the_package_is_refused(tmp_path: Path) -> None:
    for name, damage in (("short", lambda state: dict(list(state.items())[:-1])), ("other", lambda state: state)):
        state = damage({f"a{i}.weight": torch.zeros(2) for i in range(247)})
        torch.save(state, tmp_path / name)
        with pytest.raises(SweepError, match=rf"{WEIGHTS.package} (has 246 tensors|has a0\.weight \(2,\))"):
            convert_state_dict((tmp_path / name).read_bytes())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy images of two classes that differ in colour."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (root / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 120, (48, 48, 3))
            pixels[..., channel] += 130
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def test_features_of_several_widths_lie_side_by_side(images: Path, tmp_path: Path) -> None:
    backbone = load_backbone("untrained:test_efficientnet", image_size=64, cache_dir=tmp_path)
    split = load_data(str(images), seed=0, cache_dir=tmp_path).train
    computed, cached = (compute_features(backbone, split, cache_dir=tmp_path, batch_size=7) for _ in range(2))
    assert (computed.from_cache, cached.from_cache) == (False, True)
    assert cached.stages.shape == (split.n_images, 1, 4, sum(backbone.widths))
    data = StageData(cached.stages, cached.labels, 2, widths=backbone.widths)
    resident = ResidentStageData.of(data, torch.device("cpu"))
    wanted = torch.tensor([3, 0])
    expected = backbone.stages(torch.stack([backbone.transform(split.open(int(i))) for i in wanted]))
    for source in (data, resident):
        stages, labels = source.batch(wanted, torch.empty(0))
        assert torch.equal(labels, cached.labels[wanted])
        for stage, like in zip(stages, expected, strict=True):
            torch.testing.assert_close(stage, like, rtol=2e-3, atol=2e-3)
    pooled, _ = data.pooled(slice(None)).batch(wanted, torch.empty(0))
    for stage, like in zip(pooled, expected, strict=True):
        torch.testing.assert_close(stage, like.mean(1, keepdim=True), rtol=2e-3, atol=2e-3)


def suggest(trial: optuna.Trial) -> LaneConfig:
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    return LaneConfig(lr=lr, rank=trial.suggest_categorical("rank", [1, 2]))


def run_on(backbone: str, images: Path, folder: Path, **declared: object) -> Path:
    study = Study(
        suggest=suggest,
        baseline={"lr": 1e-2, "rank": 2},
        max_rank=2,
        backbone=backbone,
        data=str(images),
        trials=3,
        epochs=3,
        batch_size=16,
        **declared,  # type: ignore[arg-type]
    )
    return run_study(
        LoadedStudy("levels", Path("levels.py"), study),
        n_parallel=2,
        out=folder / "run",
        storage_url=None,
        device_name="cpu",
        cache_dir=folder / "cache",
        reporter=LineReporter(stderr),
    ).path


@pytest.mark.slow
def test_a_study_runs_and_its_winner_ships(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    run = run_on("untrained:test_efficientnet", images, tmp_path, image_size=64, stages=(2, 3, 5))
    results = load_results(run)
    assert results.config["stages"] == [2, 3, 5]
    assert results.summary["winner"]["test"]["top1"] == 1
    spare = available_bytes(torch.device("cpu"))
    assert 0 < results.summary["plan"]["bytes_per_lane"] < spare
    assert results.summary["plan"]["cache_bytes"] == 40 * 4 * (24 + 24 + 32 + 64) * 2
    onnx = importlib.util.find_spec("onnxscript") is not None
    exported = export_run(run, tmp_path / "shipped", torch_export=True, onnx=onnx, cache_dir=tmp_path / "cache")
    assert max(exported.differences.values()) < 1e-4
    model = sweep.load_model(tmp_path / "shipped")
    assert json.loads((tmp_path / "shipped" / "config.json").read_text())["backbone"]["stages"] == [2, 3, 5]
    pictures = [Image.open(images / name / "1.png") for name in ("green", "red")]
    with torch.no_grad():
        predicted = model(torch.stack([model.transform(picture) for picture in pictures])).argmax(-1)
    assert predicted.tolist() == [0, 1]
    said: list[str] = []
    write_report(run, tmp_path / "report.html", cache_dir=tmp_path / "cache", say=said.append)
    assert not said
    assert "stages after blocks 2, 3, 5" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "stages = (2, 3, 5)" in (tmp_path / "shipped" / "README.md").read_text(encoding="utf-8")


def test_the_benchmark_is_for_plain_vits() -> None:
    with pytest.raises(
        UsageError, match="sweep bench measures plain Vision Transformers only, and untrained:test_resnet"
    ):
        Workload.of_backbone(Sizes(backbone="untrained:test_resnet", image_size=64))


def test_bf16_is_for_one_width(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bf16"):
        run_on("untrained:test_efficientnet", images, tmp_path, image_size=64, precision="bf16")


def test_a_study_on_a_network_of_the_users(images: Path, tmp_path: Path) -> None:
    """The study runs. A command that reads the record later does not execute the file that the record names."""
    file = tmp_path / "mine.py"
    file.write_text("import timm\ndef build():\n    return timm.create_model('test_resnet', pretrained=False)\n")
    run = run_on(f"{file}:build", images, tmp_path, image_size=64)
    assert load_results(run).config["backbone"] == f"{file}:build"
    file.write_text("raise AssertionError('executed')\n")
    with pytest.raises(UsageError, match="a file is executed only if you give it"):
        export_run(run, tmp_path / "shipped", cache_dir=tmp_path / "cache")
    said: list[str] = []
    write_report(run, tmp_path / "report.html", cache_dir=tmp_path / "cache", say=said.append)
    assert "a file is executed only if you give it" in said[0]


def test_a_users_file_is_executed_again_if_the_user_gives_it(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "mine.py"
    file.write_text(
        "import timm, torch\ndef build():\n    torch.manual_seed(0)\n"
        "    return timm.create_model('test_resnet', pretrained=False)\n"
    )
    run, given = run_on(f"{file}:build", images, tmp_path, image_size=64), f"{file}:build"
    said: list[str] = []
    target = tmp_path / "report.html"
    write_report(run, target, cache_dir=tmp_path / "cache", say=said.append, backbone_file=given)
    assert said == []
    handle = sweep.load_run(run, backbone=given)
    n_val = load_results(run).summary["n_val_images"]
    assert np.sum(handle.plot.confusion().data[0].customdata) == n_val
    exported = handle.best.export(tmp_path / "shipped")
    assert exported.trials == (handle.best.number,)
    assert handle.best.load().backbone.fingerprint == load_results(run).config["backbone_fingerprint"]
    shutil.copytree(run, tmp_path / "other")
    for backbone, n_tests in ((None, 0), (given, 1)):
        comparison = compare_runs([run, tmp_path / "other"], tmp_path / "cache", backbone_file=backbone)
        assert len(comparison.tests) == n_tests
        assert len(comparison.not_tested) == 2 * (1 - n_tests)
