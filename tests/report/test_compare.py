"""`sweep compare`: the paired test uses the predictions and pools backbones image by image."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweep.cli.compare import compare
from sweep.errors import UsageError
from sweep.records.folder import RunFolder
from sweep.records.paired import Difference, mcnemar_p_value, normal_p_value
from sweep.records.results import load_results
from sweep.report.compare import ComparedRun, _by_method, _differing, compare_runs
from sweep.report.compare_page import comparison_sections, run_rows, write_comparison
from sweep.report.evidence import answers_of
from sweep.report.write import write_report


@pytest.fixture
def cache(finished_run: Path) -> Path:
    return finished_run.parent / "cache"


def test_paired_test_uses_the_predictions(finished_run: Path, pareto_run: Path, cache: Path) -> None:
    comparison = compare_runs([finished_run, pareto_run], cache)
    right = []
    for run in (finished_run, pareto_run):
        results = load_results(run)
        answers = answers_of(results, RunFolder(run), results.summary["winner"]["trial"], "test", cache)
        right.append((answers.outputs.argmax(-1) == answers.labels).numpy().astype(float))
        assert right[-1].mean() == pytest.approx(results.summary["winner"]["test"]["top1"])
    (test,) = comparison.tests
    differences = right[1] - right[0]
    assert (test.name, test.reference, test.n_backbones) == ("pareto", "run", 1)
    assert test.n_images == len(differences)
    assert test.difference.mean == pytest.approx(differences.mean())
    half = 1.959964 * differences.std(ddof=1) / math.sqrt(len(differences))
    assert test.difference.high - test.difference.mean == pytest.approx(half)
    assert test.p_value == mcnemar_p_value(int((differences < 0).sum()), int((differences > 0).sum()))
    assert {"trials", "objectives"} <= set(comparison.differing)
    assert "backbone" not in comparison.differing


def compared(name: str, study: str, backbone: str, **others: Any) -> ComparedRun:
    config = {"study": study, "backbone": backbone, **others}
    results: Any = type("R", (), {"config": config, "kind": load_kind()})()
    return ComparedRun(name, results, 0, RunFolder(Path(name)))


def load_kind() -> Any:
    from sweep.tasks.kinds import CLASSES

    return CLASSES


def test_methods_are_pooled_over_the_backbones_that_both_have() -> None:
    runs = [compared(f"{study}{backbone}", study, backbone) for study in "AB" for backbone in "xy"]
    runs.append(compared("Bz", "B", "z"))
    rng = np.random.default_rng(0)
    answers = {run.name: torch.from_numpy(rng.integers(0, 2, 50).astype(float)) for run in runs}
    (test,) = _by_method(runs, answers)
    assert (test.name, test.reference, test.n_backbones) == ("Bx + By", "Ax + Ay", 2)
    own, other = ((answers[f"{study}x"] + answers[f"{study}y"]) / 2 for study in "BA")
    assert test.difference.mean == pytest.approx((own - other).mean().item())
    error = (own - other).std().item() / math.sqrt(50)
    assert test.difference.high - test.difference.low == pytest.approx(2 * 1.959964 * error)
    assert test.p_value == normal_p_value(test.difference)


@pytest.mark.parametrize("options", [{"side_network": "ladder"}, {"mlp": False}, {"attention": True}, {"parts": 4}])
def test_another_side_network_is_another_method(options: dict[str, Any]) -> None:
    old = [compared(f"last {backbone}", "A", backbone) for backbone in "xy"]  # of a version without these options
    new = [compared(f"new {backbone}", "A", backbone, **options) for backbone in "xy"]
    assert old[0].setting("side_network") == "last"
    assert set(_differing([*old, *new])) == {"backbone", *options}
    (test,) = _by_method([*old, *new], {run.name: torch.zeros(4) for run in [*old, *new]})
    assert (test.name, test.reference) == ("new x + new y", "last x + last y")


def test_one_backbone_is_not_pooled() -> None:
    runs = [compared("Ax", "A", "x"), compared("Bx", "B", "x"), compared("By", "B", "y")]
    assert list(_by_method(runs, {run.name: torch.zeros(4) for run in runs})) == []


def test_p_values() -> None:
    assert mcnemar_p_value(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
    assert mcnemar_p_value(5, 5) == 1
    assert mcnemar_p_value(0, 0) == 1
    assert mcnemar_p_value(2000, 2200) == pytest.approx(0.00214, abs=2e-4)
    assert normal_p_value(Difference(0.1, 0.0, 0.2)) == pytest.approx(0.05, abs=1e-6)
    assert math.isnan(normal_p_value(Difference(0, 0, 0)))


def test_page_and_table(finished_run: Path, pareto_run: Path, cache: Path, tmp_path: Path) -> None:
    comparison = write_comparison([finished_run, pareto_run], tmp_path / "compared.html", cache_dir=cache)
    html = (tmp_path / "compared.html").read_text()
    assert html.count('class="plotly-graph-div"') == 2
    headings, rows = run_rows(comparison)
    for row, run in zip(rows, (finished_run, pareto_run), strict=True):
        cells = dict(zip(headings, (cell.text for cell in row), strict=True))
        summary = load_results(run).summary
        assert cells["top-1, test"].startswith(f"{summary['winner']['test']['top1']:.3f} ±")
        assert cells["winner"] == str(summary["winner"]["trial"])
        for text in cells.values():
            assert text in html


def test_in_the_report(finished_run: Path, pareto_run: Path, cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    figures = write_report(finished_run, target, cache_dir=cache, say=lambda line: None, others=[pareto_run])
    assert {"winners-by-epoch", "best-by-trial", "learning-curves"} <= set(figures)
    assert "Runs side by side" in target.read_text()


def test_the_command(
    finished_run: Path,
    pareto_run: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(cache))
    compare([finished_run, pareto_run])
    said = capsys.readouterr().out
    assert "paired test on the same test images" in said
    assert "against run, with 95% intervals over images" in said


def test_runs_that_cannot_be_tested_say_why(finished_run: Path, tmp_path: Path, cache: Path) -> None:
    for name in ("stopped", "other"):
        shutil.copytree(finished_run, tmp_path / name)
    (tmp_path / "stopped" / "summary.json").unlink()
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["splits"]["test"]["fingerprint"] = "0" * 64
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    comparison = compare_runs([finished_run, tmp_path / "stopped", tmp_path / "other"], cache)
    assert comparison.tests == ()
    assert comparison.not_tested == {
        "stopped": "the run has not ended",
        "other": "its test images are not those of run",
    }
    html = "".join(comparison_sections(comparison, lambda name, figure, *, least_width=0: name))
    assert "Left out, stopped: the run has not ended." in html


def test_fewer_than_two_different_runs_are_refused(finished_run: Path, cache: Path) -> None:
    with pytest.raises(UsageError, match="at least two run folders"):
        compare_runs([finished_run], cache)
    with pytest.raises(UsageError, match="a run is given twice"):
        compare_runs([finished_run, finished_run], cache)
