"""The accuracy suite on the user's own images and texts: what it compares there, and how it trains LoRA on texts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from backbones.text_transform import BEYOND
from sweep.bench import accuracy
from sweep.bench.accuracy import measure
from sweep.bench.accuracy_results import LAST, LORA, PROBE, AccuracyRow, AccuracySizes
from sweep.bench.accuracy_tasks import METHODS, find_tasks, fitting_methods, methods_asked_for, study_of
from sweep.bench.lora import TEXT_CONFIGS, choose_lora, new_lora, retrain_lora, why_not_lora
from sweep.bench.text_lora import token_data
from sweep.cli import app
from sweep.data.suites import Task
from sweep.errors import UsageError
from sweep.running.preparation import Prepared, prepare

TINY = AccuracySizes(
    backbone="tiny-untrained",
    image_size=None,
    n_configs=2,
    n_family_configs=2,
    n_lora_configs=1,
    n_seeds=1,
    epochs=1,
    family_epochs=1,
)
Measure = Callable[[Task, AccuracySizes, str], list[AccuracyRow]]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def on_texts(text_table: Path, text_encoder: Path) -> AccuracySizes:
    return replace(TINY, suite=str(text_table), kind="texts", backbone=str(text_encoder))


def prepared_texts(network: Path, table: Path, cache_dir: Path, **declared: object) -> Prepared:
    sizes = replace(TINY, kind="texts", backbone=str(network))
    study = study_of(Task("texts", "texts", str(table)), sizes, LAST).study.override(**declared)
    return prepare(study, n_parallel=None, device=torch.device("cpu"), cache_dir=cache_dir)


def test_what_run_takes_is_a_task(photos: Path, text_table: Path, tmp_path: Path) -> None:
    images = find_tasks(str(photos), None, tmp_path)
    assert images.tasks == (Task("photos", "photos", str(photos)),)
    assert images.kind == "images"
    assert find_tasks(str(text_table), None, tmp_path).kind == "texts"
    with pytest.raises(UsageError, match=r"--accept-licence CC-BY-NC-SA-4\.0"):
        find_tasks("elpv", None, tmp_path)


def test_data_without_one_class_for_each_item_are_refused(text_table: Path, tmp_path: Path) -> None:
    table = pd.read_csv(text_table)
    table["label"] += "|new"
    several = tmp_path / "several.csv"
    table.to_csv(several, index=False)
    with pytest.raises(UsageError, match=r"several\.csv is for multi-label; give other --data"):
        find_tasks(str(several), None, tmp_path)


def test_a_folder_of_images_and_texts_is_refused(photos: Path, text_table: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    (whole / "read").mkdir(parents=True)
    (whole / "read" / "task.csv").write_text(text_table.read_text())
    (whole / "seen").mkdir()
    photos.rename(whole / "seen" / "photos")
    rows = [(f"photos/{name}/{i}.png", name) for name in ("cats", "dogs") for i in range(8)]
    pd.DataFrame(rows, columns=["path", "label"]).to_csv(whole / "seen" / "task.csv", index=False)
    with pytest.raises(UsageError, match="has images and texts tasks"):
        find_tasks(str(whole), None, tmp_path)


def test_methods_are_given_by_name() -> None:
    assert methods_asked_for(None) is None
    assert methods_asked_for("lora, last,ladder") == (LAST, "ladder", LORA)
    with pytest.raises(UsageError, match="linear probe is measured with last"):
        methods_asked_for("probe,ladder")
    with pytest.raises(UsageError, match="'lader'; give some of these: last, ladder"):
        methods_asked_for("lader")
    with pytest.raises(UsageError, match="names no method"):
        methods_asked_for(" ,")


def test_methods_that_do_not_fit_are_left_out(
    text_table: Path, text_encoder: Path, text_decoder: Path, tmp_path: Path
) -> None:
    found = find_tasks(str(text_table), None, tmp_path)
    sizes = replace(TINY, suite=str(text_table), kind="texts")
    left_out = {}
    for network in (text_encoder, text_decoder):
        jobs, reasons = fitting_methods(found, replace(sizes, backbone=str(network)), None, tmp_path)
        left_out[network] = set(reasons)
        assert [method for _, method in jobs] == [method for method in METHODS if method not in reasons]
    assert left_out[text_encoder] == {"convolution", "granular_last", "gated_last"}
    assert left_out[text_decoder] == left_out[text_encoder] | {"mixer"}
    with pytest.raises(UsageError, match=r"mixer cannot be compared here: .*Leave it out of --methods"):
        fitting_methods(found, replace(sizes, backbone=str(text_decoder)), ("mixer",), tmp_path)


def test_lora_needs_a_network_whose_projections_are_known(photos: Path, tmp_path: Path) -> None:
    sizes = replace(TINY, suite=str(photos), backbone="untrained:resnet18", image_size=32)
    jobs, reasons = fitting_methods(find_tasks(str(photos), None, tmp_path), sizes, None, tmp_path)
    assert "needs a Vision Transformer of timm" in reasons[LORA]
    assert LAST in [method for _, method in jobs]


def test_studies_of_texts_read_them_without_augmentation(text_table: Path, on_texts: AccuracySizes) -> None:
    task = Task("texts", "texts", str(text_table))
    last, ladder = (study_of(task, on_texts, family).study for family in (LAST, "ladder"))
    for study in (last, ladder):
        assert (study.stages, study.image_size, study.backbone) == (3, None, on_texts.backbone)
    assert last.halving is None
    assert last.suggest.__module__ == "studies.lr_rank"
    asked = ladder.suggest(optuna.trial.FixedTrial(dict(ladder.baseline)))
    assert asked.augment == "none"
    assert asked.side_network == "ladder"


@pytest.mark.parametrize(("epochs", "rungs"), [(12, [2, 6]), (30, [6, 18]), (60, [12, 36]), (1, [])])
def test_rungs_of_a_family_move_with_its_epochs(epochs: int, rungs: list[int]) -> None:
    task = Task("count", "structured", "count")
    study = study_of(task, AccuracySizes(family_epochs=epochs), "ladder").study
    assert study.epochs == epochs
    assert study.halving is not None
    assert study.halving.rungs(epochs) == rungs


@pytest.mark.parametrize("method", [LAST, "ladder", LORA])
def test_methods_are_measured_on_texts(method: str, text_table: Path, on_texts: AccuracySizes) -> None:
    rows = measure(Task("texts", "texts", str(text_table)), on_texts, method)
    assert [row.method for row in rows] == ([LAST, PROBE] if method == LAST else [method])
    for row in rows:
        assert row.metric == "top1"
        assert row.test_mean_class_accuracy is not None
        assert row.test_top1 * row.n_test_images == pytest.approx(round(row.test_top1 * row.n_test_images))
        assert row.n_configurations == {PROBE: 30, LORA: 1}.get(row.method, 2)


@pytest.mark.parametrize("network", ["text_encoder", "text_decoder"])
def test_lora_on_texts_starts_as_the_network_with_a_head(
    network: str, text_table: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prepared = prepared_texts(request.getfixturevalue(network), text_table, tmp_path)
    module = new_lora(prepared, 4, seed=3)
    rows = [prepared.backbone.transform(text) for text in ("a red car", "the very old house is not blue")]
    assert not torch.equal(rows[0], rows[1])
    data = token_data(rows, torch.tensor([0, 1]), prepared.data.n_classes)
    together = module(data.batch(torch.tensor([0, 1]), torch.zeros(()))[0])
    for i, row in enumerate(rows):
        ids = row[row != BEYOND].unsqueeze(0)
        tokens = prepared.backbone.network(input_ids=ids).last_hidden_state  # type: ignore[attr-defined]
        pooled = tokens[:, -1] if prepared.backbone.causal else tokens.mean(1)
        alone = module(data.batch(torch.tensor([i]), torch.zeros(()))[0])
        torch.testing.assert_close(alone, module.head(pooled), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_lora_on_texts_learns_and_leaves_the_network_alone(
    text_table: Path, text_decoder: Path, tmp_path: Path
) -> None:
    prepared = prepared_texts(text_decoder, text_table, tmp_path, epochs=12)
    frozen = {name: tensor.clone() for name, tensor in prepared.backbone.network.state_dict().items()}  # type: ignore[attr-defined]
    choice = choose_lora(prepared, TEXT_CONFIGS[-1:], lambda line: None)
    width, n_blocks, rank = prepared.spec.width, 4, TEXT_CONFIGS[-1].rank
    n_classes = prepared.data.n_classes
    assert choice.trainable_parameters == n_blocks * rank * (width + 3 * width) + (width + 1) * n_classes + 2 * width
    assert choice.val["top1"] > 0.6, "the label is a word of the text; chance is a third"
    assert retrain_lora(prepared, choice.config)["top1"] > 0.6
    for name, tensor in prepared.backbone.network.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(tensor, frozen[name]), name
    assert why_not_lora(prepared.backbone) is None


def test_command_compares_on_a_folder_and_continues_with_more_methods(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def here(measure: Measure, task: Task, sizes: AccuracySizes, method: str, *, what: str) -> list[AccuracyRow]:
        calls.append(method)
        assert what == "photos"
        return measure(task, sizes, method)

    monkeypatch.setattr(accuracy, "in_own_process", here)
    path = tmp_path / "accuracy.json"
    command = [
        *("bench", "--suite", "accuracy", "--data", str(photos), "--backbone", "tiny-untrained"),
        *("--trials", "2", "--seeds", "1", "--epochs", "1", "--json", str(path), "--methods"),
    ]
    done = CliRunner().invoke(app, [*command, "last,lora"])
    assert done.exit_code == 0, done.output
    before = json.loads(path.read_text())
    assert [row["method"] for row in before["rows"]] == [LAST, PROBE, LORA]
    assert before["sizes"]["backbone"] == "tiny-untrained"
    assert before["sizes"]["image_size"] is None
    assert (before["sizes"]["epochs"], before["sizes"]["family_epochs"]) == (1, 1)
    assert {row["metric"] for row in before["rows"]} == {"top1"}
    assert [row["n_configurations"] for row in before["rows"]][::2] == [2, 2]
    went_on = CliRunner().invoke(app, [*command, "last,ladder"])
    assert went_on.exit_code == 0, went_on.output
    assert calls == [LAST, LORA, "ladder"]
    content = json.loads(path.read_text())
    assert content["rows"][:3] == before["rows"]
    assert "ladder compared with lora, 1 tasks" in went_on.output


def test_options_of_this_suite_are_refused_by_others(photos: Path) -> None:
    for option, value in (("--data", str(photos)), ("--methods", "last"), ("--trials", "3")):
        result = CliRunner().invoke(app, ["bench", "--suite", "quick", option, value])
        assert f"{option} belongs to --suite accuracy" in str(result.exception)
    result = CliRunner().invoke(app, ["bench", "--suite", "accuracy", "--rank", "3"])
    assert "leave --rank, --precision and --n-parallel out" in str(result.exception)
