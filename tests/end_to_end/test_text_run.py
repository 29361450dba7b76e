"""A run on texts, from the command to an exported model: resume, report, verify, export and predict."""

import json
import re
import shutil
import sys
from pathlib import Path

import onnxruntime
import pandas as pd
import pytest
import torch

import sweep
import sweep.cli
from sweep.export.write import export_run
from sweep.records.results import load_results
from sweep.verify.verify import verify_trial

pytestmark = pytest.mark.usefixtures("whole_probe")


def call(*arguments: object) -> int:
    """Run the command `sweep` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def backbone(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"text_{request.param}")
    return folder


@pytest.fixture(scope="module")
def options(backbone: Path, text_table: Path) -> list[object]:
    return [
        *("--study", "text_lr_rank", "--backbone", backbone, "--data", text_table, "--max-tokens", 20),
        *("--trials", 4, "--epochs", 6, "--batch-size", 16, "--n-parallel", 4, "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text_cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache))


@pytest.fixture(scope="module")
def run(options: list[object], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text_run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE_DIR", str(cache))
        assert call("run", *options, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def shipped(run: Path, cache: Path) -> Path:
    export_run(run, run.parent / "shipped", cache_dir=cache)
    return run.parent / "shipped"


def test_table_and_record(run: Path, backbone: Path) -> None:
    results = load_results(run)
    assert set(results.trials["state"]) <= {"COMPLETE", "PRUNED"}
    assert results.config["transform"]["max_tokens"] == 20
    assert results.config["max_tokens"] == 20
    assert {"transformers", "tokenizers"} <= results.config["versions"].keys()
    assert results.config["pool"] is None
    assert results.summary["n_images_computed"] == 90
    assert results.summary["linear_probe"]["val"]["top1"] > 0.5, "the colour word decides the label"


def test_plan_finds_the_features(options: list[object], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", *options) == 0
    assert "0 texts; 90 are in the cache" in capsys.readouterr().out


def test_the_first_and_the_last_trial_have_the_same_result_alone(run: Path, cache: Path) -> None:
    for trial in (0, 3):
        verification = verify_trial(run, trial, device=torch.device("cpu"), cache_dir=cache)
        assert verification.kept, verification.comparisons
        assert verification.changed == {}


def test_resume_says_that_nothing_is_left_and_refuses_another_tokenizer(
    run: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("resume", run) == 0
    assert "nothing is left to do" in capsys.readouterr().err
    again, moved = tmp_path / run.name, tmp_path / "moved"  # the Optuna study has the name of the folder
    shutil.copytree(run, again)
    shutil.copytree(backbone, moved)
    (again / "summary.json").unlink()
    assert call("resume", again) == 0
    assert load_results(again).trials.equals(load_results(run).trials)
    (again / "summary.json").unlink()
    record = json.loads((again / "config.json").read_text())
    (again / "config.json").write_text(json.dumps({**record, "backbone": str(moved)}))
    tokenizer = (moved / "tokenizer.json").read_text()
    (moved / "tokenizer.json").write_text(tokenizer.replace('"red": 14', '"red": 40'))
    assert call("resume", again) == 2
    assert "are not those that" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("backbone", ["encoder"], indirect=True, scope="module")
def test_a_run_with_the_stages_of_sweep_0_10_resumes_with_them(options: list[object], tmp_path: Path) -> None:
    """The study had a group size then, and has a number of stages now."""
    assert call("run", *options, "--group-size", 2, "--out", tmp_path / "run") == 0
    before = load_results(tmp_path / "run")
    recorded = {name: before.config[name] for name in ("group_size", "stages")}
    assert recorded == {"group_size": 2, "stages": None}
    (tmp_path / "run" / "summary.json").unlink()
    assert call("resume", tmp_path / "run") == 0
    after = load_results(tmp_path / "run")
    assert after.trials.equals(before.trials)
    assert after.config == before.config
    assert after.summary["n_images_computed"] == 0, "these are the stages that were computed before"


def test_report_shows_texts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", run) == 0
    page = (run / "report.html").read_text()
    assert "Most confused texts" in page
    assert "on the same val texts, with its 95% interval over texts" in page
    assert "texts through the backbone" in page
    assert re.search(r"\d images", page) is None
    assert "at 20 tokens" in page
    n_wrong = page.count("<blockquote>")
    winner = load_results(run).summary["winner"]["val"]["top1"]
    assert n_wrong == round((1 - winner) * load_results(run).summary["n_val_images"])
    assert "left out" not in capsys.readouterr().err


def test_exported_model_has_the_winners_numbers(run: Path, shipped: Path, text_table: Path, cache: Path) -> None:
    model = sweep.load_model(shipped)
    data = sweep.data.load_data(str(text_table), seed=0, cache_dir=cache)
    with torch.no_grad():
        logits = model(torch.stack([model.transform(data.test.open(i)) for i in range(data.test.n_images)]))
    top1 = (logits.argmax(-1).numpy() == data.test.labels).mean()
    assert top1 == pytest.approx(load_results(run).summary["winner"]["test"]["top1"], abs=1e-6)
    assert (model.side_networks[0].causal, model.side_networks[0].head.tokens == slice(-1, None)) == (
        (True, True) if "gpt2" in model.backbone.name else (False, False)
    )
    card = (shipped / "README.md").read_text()
    assert "the first 20 tokens of a text" in card
    assert 'model.transform("a text")' in card


def test_exported_model_needs_neither_folder_nor_name(shipped: Path, tmp_path: Path, backbone: Path) -> None:
    config = json.loads((shipped / "config.json").read_text())
    moved = tmp_path / "moved"
    shutil.copytree(shipped, moved)
    config["backbone"]["name"] = "./gone"
    (moved / "config.json").write_text(json.dumps(config))
    text = sweep.load_model(shipped).transform("the car is red").unsqueeze(0)
    torch.testing.assert_close(sweep.load_model(moved)(text), sweep.load_model(shipped)(text), rtol=0, atol=0)
    (moved / "tokenizer.json").write_text((moved / "tokenizer.json").read_text().replace('"red": 14', '"red": 40'))
    with pytest.raises(sweep.SweepError, match="its logits would be wrong"):
        sweep.load_model(moved)
    (moved / "backbone.json").unlink()
    with pytest.raises(sweep.SweepError, match="cannot read the backbone in"):
        sweep.load_model(moved)


@pytest.mark.parametrize(
    "backbone", ["encoder", pytest.param("decoder", marks=pytest.mark.slow)], indirect=True, scope="module"
)
def test_export_without_the_backbone_and_as_a_graph(run: Path, cache: Path, tmp_path: Path, text_table: Path) -> None:
    to = tmp_path / "small"
    exported = export_run(run, to, with_backbone=False, onnx=True, torch_export=True, cache_dir=cache)
    assert max(exported.differences.values()) < 1e-4
    model = sweep.load_model(to)
    texts = ["red", *pd.read_csv(text_table)["text"][:6]]
    tokens = torch.stack([model.transform(text) for text in texts])
    session, program = onnxruntime.InferenceSession(to / "model.onnx"), torch.export.load(to / "model.pt2").module()
    for count in (1, 7):
        with torch.no_grad():
            expected, of_program = model(tokens[:count]), program(tokens[:count])
        (of_onnx,) = session.run(["logits"], {"tokens": tokens[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(of_onnx), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(of_program, expected, rtol=0, atol=1e-5)
    assert (to / "tokenizer.json").is_file()
    assert (
        "`tokens` (N, 20), token numbers by `tokenizer.json`, -1 after a text's end, to `logits`"
        in (to / "README.md").read_text()
    )


def test_a_network_that_cannot_become_a_graph_is_reported(
    run: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("data-dependent\nand more")

    monkeypatch.setattr("torch.export.export", refuse)
    with pytest.raises(
        sweep.SweepError,
        match=r"model\.pt2 cannot be written for a model with the backbone .*: data-dependent; nothing",
    ):
        export_run(run, tmp_path / "graph", torch_export=True, cache_dir=cache)
    assert not (tmp_path / "graph").exists()


def test_predict_labels_a_table_and_lines(
    shipped: Path, text_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out.csv"
    lines = tmp_path / "lines.txt"
    lines.write_text("the car is red\na very old house\n")
    assert call("predict", shipped, text_table, lines, "--csv", target, "--batch-size", 16) == 0
    labelled = pd.read_csv(target)
    assert labelled["text"].tolist() == [*pd.read_csv(text_table)["text"], "the car is red", "a very old house"]
    model = sweep.load_model(shipped)
    for _, row in labelled.tail(5).iterrows():  # one text at a time, without a batch
        with torch.no_grad():
            p = model(model.transform(row["text"]).unsqueeze(0)).softmax(-1)[0]
        assert row["label"] == model.class_names[p.argmax()]
        assert row["probability"] == pytest.approx(p.max().item(), abs=1e-4)
    assert "92 texts labelled" in capsys.readouterr().err


def test_images_and_texts_do_not_mix(
    backbone: Path, photos: Path, text_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = ("--study", "lr_rank", "--group-size", 2)
    for name, data, message in (
        (backbone, photos, "reads texts, and the data photos are images"),
        ("tiny-untrained", text_table, "reads images, and the data texts are texts"),
    ):
        assert call("run", *study, "--backbone", name, "--data", data) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert call("run", *study, "--backbone", backbone, "--data", text_table, "--pool", "class") == 2
    assert "needs a class token" in capsys.readouterr().err
    for option in (("--augment", "flip"), ("--cache", "off")):
        assert call("run", *study, "--backbone", backbone, "--data", text_table, *option) == 2
        assert f"{option[0]}" in (said := " ".join(capsys.readouterr().err.split()))
        assert "is for images, and the study is on texts" in said


def test_a_study_for_images_names_the_remedy(
    backbone: Path, text_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("run", "--study", "side_networks", "--backbone", backbone, "--data", text_table) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--image-size is for images" in said
    assert "If it is the study that declares 56, take a study for texts" in said


def test_families_are_compared_on_texts(backbone: Path, text_table: Path, tmp_path: Path) -> None:
    options = ("--study", "text_side_networks", "--backbone", backbone, "--data", text_table, "--max-tokens", 20)
    assert call("run", *options, "--stages", 2, "--trials", 6, "--epochs", 2, "--out", tmp_path / "run") == 0
    results = load_results(tmp_path / "run")
    assert set(results.trials["params_side_network"]) == {"ladder", "last", "multi_stage"}
    assert set(results.trials["params_attention"].dropna()) == {True, False}
    assert results.trials["val_top1"].notna().all()


def test_pooling_is_searched_beside_a_decoder(text_decoder: Path, text_table: Path, tmp_path: Path) -> None:
    options = ("--study", "decoder_side_networks", "--backbone", text_decoder, "--data", text_table, "--max-tokens", 20)
    assert call("run", *options, "--stages", 2, "--trials", 4, "--epochs", 2, "--out", tmp_path / "run") == 0
    results = load_results(tmp_path / "run")
    assert set(results.trials["params_pool"]) == {"mean", "last"}
    assert results.trials["val_top1"].notna().all()
