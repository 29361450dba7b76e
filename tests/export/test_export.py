"""Exporting a run as a model: what the model computes, what its card says, and which requests are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sweep
from backbones import BACKBONES
from backbones.origin import architecture_of, origin_of
from backbones.packaged import PACKAGED_IMAGES
from sweep.data import load_data
from sweep.errors import SweepError, UsageError
from sweep.export import graph
from sweep.export.config import FORMAT_VERSION
from sweep.export.selection import winner_of
from sweep.export.write import export_run
from sweep.records.folder import RunFolder
from sweep.records.results import load_results
from sweep.search.lane_weights import KeptWeights, LaneWeights, weights_of
from sweep.tasks.metrics import classification_metrics


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def shipped(finished_run: Path, tmp_path: Path, cache: Path) -> Path:
    export_run(finished_run, tmp_path / "shipped", cache_dir=cache)
    return tmp_path / "shipped"


@pytest.fixture
def run_with_weights(finished_run: Path, tmp_path: Path) -> tuple[Path, dict[int, LaneWeights]]:
    """A copy of the run in which the three best trials have random weights. Return its folder and these weights."""
    path = tmp_path / "run"
    shutil.copytree(finished_run, path)
    folder = RunFolder.open(path)
    results = load_results(path)
    winner = results.summary["winner"]["trial"]
    spec, _ = weights_of(folder, winner, winner)
    kept, weights = KeptWeights(), {}
    for row in results.trials.to_dict("records"):
        module = spec.plain(rank := int(row["params_rank"]))
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(row["trial"]))
        weights[row["trial"]] = LaneWeights(row["trial"], rank, spec, module.state_dict())
        kept.add(weights[row["trial"]])
    best = [int(trial) for trial in results.trials["trial"][:3]]
    kept.retain(best)
    kept.write(folder)
    return path, {trial: weights[trial] for trial in best}


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_exported_winner_repeats_the_numbers_of_the_table(finished_run: Path, shipped: Path) -> None:
    model = sweep.load_model(shipped)
    results = load_results(finished_run)
    val = load_data(results.config["data"], seed=0, cache_dir=shipped).val
    with torch.no_grad():
        logits = model(torch.stack([model.transform(val.open(i)) for i in range(val.n_images)]))
    assert logits.shape == (val.n_images, 3)
    metrics = classification_metrics(logits.unsqueeze(0), torch.from_numpy(val.labels))
    for name, value in metrics.items():  # the search read stages rounded to half precision
        assert value.item() == pytest.approx(results.summary["winner"]["val"][name], abs=2e-3)


def test_model_is_an_ordinary_module_in_eval_mode(finished_run: Path, shipped: Path) -> None:
    model = sweep.load_model(shipped)
    assert list(model.class_names) == load_results(finished_run).config["classes"]
    assert not any(
        module.training for part in (model.side_networks, model.backbone.network) for module in part.modules()
    )
    assert model.transform.image_size == 32
    model.train()
    model(images()).square().sum().backward()
    assert all(p.grad is not None for p in model.side_networks.parameters())
    assert all(p.grad is None for p in model.backbone.parameters())
    other = sweep.load_model(shipped)
    other.load_state_dict(model.state_dict())


def test_model_loads_if_the_backbone_is_not_available(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exported weights are used, not those of the backbone's name. In this test the name gives other weights."""
    path = shipped / "backbone.safetensors"
    expected = sweep.load_model(shipped)(images())
    weights = load_file(path)
    monkeypatch.setattr("backbones.origin.UNTRAINED_NAMES", ())
    monkeypatch.setattr("backbones._is_timm_name", lambda name: False)
    with pytest.raises(UsageError, match="unknown backbone"):
        sweep.load_model(shipped)
    monkeypatch.undo()
    save_file({name: tensor + (name == "norm.bias") for name, tensor in weights.items()}, path)
    with pytest.raises(SweepError, match=r"backbone.safetensors has the fingerprint \w+…, but the model in .* \w+…"):
        sweep.load_model(shipped)
    save_file(weights, path)
    torch.testing.assert_close(sweep.load_model(shipped)(images()), expected, rtol=0, atol=0)


def test_without_backbone_it_is_loaded_by_name_and_checked(finished_run: Path, tmp_path: Path, cache: Path) -> None:
    to = tmp_path / "small"
    export_run(finished_run, to, with_backbone=False, cache_dir=cache)
    assert sorted(path.name for path in to.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sweep.load_model(to)(images()).shape == (4, 3)
    config = json.loads((to / "config.json").read_text())
    config["backbone"]["fingerprint"] = "0" * 64
    (to / "config.json").write_text(json.dumps(config))
    with pytest.raises(SweepError, match="its logits would be wrong"):
        sweep.load_model(to)


def test_export_refuses_another_backbone_than_the_run_had(finished_run: Path, tmp_path: Path, cache: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    config = json.loads((run / "config.json").read_text())
    sources = [{**source, "backbone_fingerprint": "0" * 64} for source in config["sources"]]
    (run / "config.json").write_text(json.dumps({**config, "sources": sources}))
    with pytest.raises(SweepError, match="differs from the one of the run"):
        export_run(run, tmp_path / "shipped", cache_dir=cache)
    assert sorted(path.name for path in tmp_path.iterdir() if "shipped" in path.name) == []


def test_card_names_data_classes_and_results(finished_run: Path, shipped: Path) -> None:
    card = (shipped / "README.md").read_text()
    summary = load_results(finished_run).summary
    assert f"| trial {summary['winner']['trial']}, {summary['n_test_images']} test images |" in card
    assert f"{summary['winner']['test']['top1']:.3f} ±" in card
    assert "The best of 4 complete trials" in card
    assert "never trained" in card
    assert r"\<img src=x onerror=console.error(1)\>" in card
    assert "\n    sweep" in card


@pytest.mark.parametrize("name", [*PACKAGED_IMAGES, "vit_small_patch16_224.augreg_in21k", "vit_base_patch16_224"])
def test_origin_of_pretrained_weights(name: str) -> None:
    assert architecture_of(name).startswith("untrained:")
    assert "licen" in origin_of(name)


def test_every_untrained_name_has_its_own_architecture() -> None:
    for name in (*(name for name in BACKBONES if "untrained" in name), "untrained:vit_tiny_patch16_224"):
        assert architecture_of(name) == name


def test_another_trial(run_with_weights: tuple[Path, dict[int, LaneWeights]], tmp_path: Path, cache: Path) -> None:
    run, weights = run_with_weights
    trial = list(weights)[1]
    export_run(run, tmp_path / "other", trial=trial, cache_dir=cache)
    model = sweep.load_model(tmp_path / "other")
    for name, tensor in weights[trial].state.items():
        assert torch.equal(model.side_networks[0].state_dict()[name], tensor)
    card = (tmp_path / "other" / "README.md").read_text()
    assert "This model was not evaluated on the test images." in card
    assert f"trial {trial}, " in card


def test_weights_that_were_not_kept(
    run_with_weights: tuple[Path, dict[int, LaneWeights]], tmp_path: Path, cache: Path
) -> None:
    run, weights = run_with_weights
    last = int(load_results(run).trials["trial"].iloc[-1])
    kept = ", ".join(map(str, sorted(weights)))
    with pytest.raises(UsageError, match=f"the weights of trial {last} were not kept in .*; those of trials {kept}"):
        export_run(run, tmp_path / "other", trial=last, cache_dir=cache)
    RunFolder(run).weights_path.unlink()
    winner = load_results(run).summary["winner"]["trial"]
    with pytest.raises(UsageError, match=f"those of trial {winner} were"):
        export_run(run, tmp_path / "other", trial=last, cache_dir=cache)
    with pytest.raises(UsageError, match="has no trial 99"):
        export_run(run, tmp_path / "other", trial=99, cache_dir=cache)


def test_ensemble_is_the_mean_of_probabilities_after_one_backbone_forward(
    run_with_weights: tuple[Path, dict[int, LaneWeights]],
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, weights = run_with_weights
    winner = load_results(run).summary["winner"]["trial"]
    exported = export_run(run, tmp_path / "three", ensemble="top3", cache_dir=cache)
    assert exported.trials == tuple(weights)
    mean = torch.zeros(4, 3)
    for trial in weights:
        export_run(run, tmp_path / f"{trial}", trial=trial, cache_dir=cache)
        mean += sweep.load_model(tmp_path / f"{trial}")(images()).softmax(-1) / 3
    model = sweep.load_model(tmp_path / "three")
    passes = []
    forward = model.backbone.network.patch_embed.register_forward_hook(lambda *args: passes.append(1))
    torch.testing.assert_close(model(images()).exp(), mean)
    forward.remove()
    assert len(passes) == 1
    card = (tmp_path / "three" / "README.md").read_text()
    assert "`sweep evaluate` measures the ensemble as a whole" in card
    assert f"trial {winner}, " in card


def test_the_pareto_front_as_an_ensemble(pareto_run: Path, finished_run: Path, tmp_path: Path, cache: Path) -> None:
    trials = load_results(pareto_run).trials
    front = trials.loc[trials["front"] == 0, "trial"].to_list()
    exported = export_run(pareto_run, tmp_path / "front", ensemble="pareto", cache_dir=cache)
    assert exported.trials == tuple(front)
    mean = torch.zeros(4, 3)
    for trial in front:
        export_run(pareto_run, tmp_path / f"{trial}", trial=trial, cache_dir=cache)
        mean += sweep.load_model(tmp_path / f"{trial}")(images()).softmax(-1) / len(front)
    torch.testing.assert_close(sweep.load_model(tmp_path / "front")(images()).exp(), mean)
    card = (tmp_path / "front" / "README.md").read_text()
    assert "The Pareto front of 6 complete trials: the run ranks its trials by Pareto front, then by val\\_nll" in card
    with pytest.raises(UsageError, match="pareto needs a run with several objectives, and this run has only val_top1"):
        export_run(finished_run, tmp_path / "none", ensemble="pareto", cache_dir=cache)


def test_a_front_of_more_trials_than_a_run_keeps(
    pareto_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.export.selection.KEPT_TRIALS", 1)
    with pytest.raises(UsageError, match="keeps the weights of its 1 best; give --ensemble top1"):
        export_run(pareto_run, tmp_path / "front", ensemble="pareto", cache_dir=cache)


@pytest.mark.parametrize("ensemble", ["top", "top1", "best", "top0"])
def test_malformed_ensembles_are_refused(finished_run: Path, tmp_path: Path, cache: Path, ensemble: str) -> None:
    with pytest.raises(UsageError, match="--ensemble must be top2"):
        export_run(finished_run, tmp_path / "out", ensemble=ensemble, cache_dir=cache)


def test_contradictory_requests_are_refused(finished_run: Path, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="give only one of these options"):
        export_run(finished_run, tmp_path / "out", trial=0, ensemble="top2", cache_dir=cache)
    with pytest.raises(UsageError, match="needs 9 complete trials, and the run has 4"):
        export_run(finished_run, tmp_path / "out", ensemble="top9", cache_dir=cache)
    with pytest.raises(UsageError, match="is not empty"):
        export_run(finished_run, finished_run, cache_dir=cache)


def test_folders_without_a_model_are_refused(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no exported model"):
        sweep.load_model(tmp_path)
    path = shipped / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(UsageError, match="with a newer sweep"):
        sweep.load_model(shipped)
    path.write_text(json.dumps({**config, "members": [*config["members"], config["members"][0]]}))
    with pytest.raises(SweepError, match="does not fit"):
        sweep.load_model(shipped)


def test_torch_export_computes_the_same(finished_run: Path, tmp_path: Path, cache: Path) -> None:
    to = tmp_path / "graph"
    exported = export_run(finished_run, to, torch_export=True, cache_dir=cache)
    assert exported.differences["model.pt2"] <= graph.TOLERANCE
    program = torch.export.load(to / "model.pt2").module()
    for count in (1, 5):
        torch.testing.assert_close(program(images(count)), sweep.load_model(to)(images(count)), rtol=0, atol=1e-5)


def test_graph_that_differs_is_not_exported(
    finished_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    with pytest.raises(SweepError, match=r"model.pt2 gives logits that differ by"):
        export_run(finished_run, tmp_path / "graph", torch_export=True, cache_dir=cache)
    assert not (tmp_path / "graph").exists()


def test_onnx_computes_the_same(finished_run: Path, tmp_path: Path, cache: Path) -> None:
    to = tmp_path / "graph"
    exported = export_run(finished_run, to, onnx=True, cache_dir=cache)
    assert exported.differences["model.onnx"] <= graph.TOLERANCE
    session = onnxruntime.InferenceSession(to / "model.onnx")
    for count in (1, 5):
        (logits,) = session.run(["logits"], {"images": images(count).numpy()})
        expected = sweep.load_model(to)(images(count))
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)


def test_onnx_without_its_packages(
    finished_run: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SweepError, match="pip install"):
        export_run(finished_run, tmp_path / "graph", onnx=True, cache_dir=cache)


def test_a_run_without_a_winner_says_why(finished_run: Path) -> None:
    results, folder = load_results(finished_run), RunFolder(finished_run)
    failed = results.trials.assign(state="FAIL", failure="the study's metric margin failed")
    with pytest.raises(SweepError, match=r"all \d failed, the first with: the study's metric margin failed\. Mend"):
        winner_of(replace(results, trials=failed, summary={}), folder)
    running = results.trials.assign(state=["RUNNING", *["FAIL"] * (len(failed) - 1)])
    with pytest.raises(SweepError, match="let the run go on, or continue it with sweep resume"):
        winner_of(replace(results, trials=running, summary={}), folder)
