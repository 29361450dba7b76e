"""`sweep report`: the page opens anywhere, says what the run found, and executes nothing that it quotes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plotly.graph_objects import Figure

from sweep.errors import SweepError, UsageError
from sweep.export.selection import winner_of
from sweep.records.folder import RunFolder
from sweep.records.results import load_results
from sweep.report.evidence import winner_on_val
from sweep.report.figures import confusion_matrix, learning_curves, reliability_diagram
from sweep.report.write import write_png, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SILENT = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
]

Report = Callable[[Path], tuple[str, list[str]]]


@pytest.fixture
def report(finished_run: Path, tmp_path: Path) -> Report:
    """Return a function that writes a run's report and returns the page and all messages."""

    def write(run: Path) -> tuple[str, list[str]]:
        said: list[str] = []
        target = tmp_path / "report.html"
        write_report(run, target, cache_dir=finished_run.parent / "cache", say=said.append)
        return target.read_text(), said

    return write


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "copy")
    return tmp_path / "copy"


def text_of(html: str) -> str:
    """Return the text of the page that a reader sees."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_page_says_what_the_run_found(finished_run: Path, report: Report) -> None:
    html, said = report(finished_run)
    results = load_results(finished_run)
    text = text_of(html)
    assert said == []
    for row in results.trials.to_dict("records"):
        assert f"{row['val_nll']:.3f}" in text
    winner = results.summary["winner"]
    assert f"winner, trial {winner['trial']} {winner['val']['top1']:.3f} ±" in text
    assert f"{winner['test']['top1']:.3f} ±" in text
    titles = ["Learning curves", "Which parameters matter", "All configurations", "One parameter at a time", "Glossary"]
    for title in (*titles, "Confusion of", "Calibration of", "Most confused images", "Cost", "Made with"):
        assert title in text
    evidence = winner_on_val(results, RunFolder(finished_run), winner["trial"], finished_run.parent / "cache")
    n_wrong = int((evidence.predicted != evidence.labels).sum())
    assert f"{n_wrong} of {len(evidence.labels)} val images are misclassified" in text
    assert html.count('<img alt="" src="data:image/png;base64,') == min(n_wrong, 24)


def test_page_fetches_nothing_and_sends_nothing(finished_run: Path, report: Report) -> None:
    html, _ = report(finished_run)
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:)', html)
    assert (
        html.count('"showSendToCloud": false') == html.count('class="plotly-graph-div"') == 6
    )  # curves, configurations, two parameters, confusion, calibration


def test_names_from_the_run_are_escaped(finished_run: Path, report: Report) -> None:
    html, _ = report(finished_run)
    (harmful,) = (name for name in load_results(finished_run).config["classes"] if "<" in name)
    assert harmful not in html
    assert harmful in text_of(html)


def test_evidence_agrees_with_the_table(finished_run: Path) -> None:
    results = load_results(finished_run)
    winner = results.summary["winner"]
    evidence = winner_on_val(results, RunFolder(finished_run), winner["trial"], finished_run.parent / "cache")
    correct = evidence.predicted == evidence.labels
    assert correct.mean() == pytest.approx(winner["val"]["top1"], abs=1e-12)
    counts = np.array(confusion_matrix(evidence, results.config["classes"]).data[0].customdata)
    assert counts.sum() == len(evidence.labels)
    assert np.trace(counts) == correct.sum()
    bars = reliability_diagram(evidence).data[0]
    n_images, confidence = np.array(bars.customdata).T
    ece = (n_images * np.abs(np.array(bars.y) - confidence)).sum() / n_images.sum()
    assert ece == pytest.approx(winner["val"]["ece"], abs=1e-6)
    surest = evidence.probabilities.max(-1)[evidence.most_confused(5)]
    assert (np.diff(surest) <= 0).all()


def test_several_objectives(pareto_run: Path, report: Report) -> None:
    html, said = report(pareto_run)
    results = load_results(pareto_run)
    text = text_of(html)
    assert said == []
    section = text[text.index("Pareto front") : text.index("Trials, best first")]
    assert "(minimize val_nll, minimize trainable_parameters, maximize val_spread)" in section
    assert "Hypervolume: Volume of the space of objectives" in section
    assert 'id="hypervolume" class="plotly-graph-div"' in html
    assert "trial NLL size val_spread lr rank" in section
    on_front = results.trials[results.trials["front"] == 0]
    assert 1 < len(on_front) < len(results.trials), "the test needs trials on and off the front"
    for row in results.trials.to_dict("records"):
        shown = f" {row['val_spread']:.3f} " in section
        assert shown == (row["front"] == 0 or row["trial"] == 0)
    assert 'id="pareto-front" class="plotly-graph-div"' in html
    table = text[text.index("Trials, best first") : text.index("Learning curves")]
    assert "place trial front state top-1 vs baseline 95% interval" in table
    assert "val_spread" in table
    labels = [button.label for button in curves_of(pareto_run).layout.updatemenus[0].buttons]
    assert labels == ["NLL on val", "spread on val", "top-1 on val", "ECE on val", "training loss"]


def test_files_of_misclassified_images(finished_run: Path, report: Report) -> None:
    html, _ = report(finished_run)
    results = load_results(finished_run)
    evidence = winner_on_val(
        results, RunFolder(finished_run), results.summary["winner"]["trial"], finished_run.parent / "cache"
    )
    shown = re.findall(r'<span class="path">(.*?)</span>', html)
    assert evidence.val.source is not None
    assert [unescape(path) for path in shown] == [evidence.val.source(index) for index in evidence.most_confused(24)]
    assert all(Path(unescape(path)).is_file() for path in shown)


def test_headings_are_explained(pareto_run: Path, report: Report) -> None:
    html, _ = report(pareto_run)
    explained = set(re.findall(r'<th[^>]*><abbr title="[^"]{20,}">([^<]+)</abbr>', html))
    assert {"NLL", "ECE", "class acc.", "size", "front", "vs baseline", "95% interval", "lr", "rank"} <= explained
    glossary = text_of(html)[text_of(html).rindex("Glossary") :]
    for word in ("ECE Expected calibration error", "size Trained parameters", "hypervolume Volume"):
        assert word in glossary


def curves_of(run: Path) -> Figure:
    results = load_results(run)
    return learning_curves(results.curves, winner_of(results, RunFolder(run)), list(results.objectives))


def test_report_without_the_val_images(copy: Path, finished_run: Path, report: Report) -> None:
    images = str(finished_run.parent / "images")
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace(images, "/nowhere"))
    html, said = report(copy)
    assert "no data set '/nowhere'" in said[0]
    assert "Left out: no data set '/nowhere'" in text_of(html)
    assert "Learning curves" in text_of(html)


def test_report_of_an_interrupted_run(copy: Path, report: Report) -> None:
    (copy / "summary.json").unlink()
    html, _ = report(copy)
    assert "The run did not end: test was not looked at." in text_of(html)


def test_runs_that_cannot_be_reported_are_refused(copy: Path, report: Report, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run folder"):
        report(tmp_path)
    (copy / "optuna.journal").write_text("nonsense\n")
    with pytest.raises(SweepError, match=r"the Optuna storage .*optuna.journal cannot be read"):
        report(copy)


def test_png_without_kaleido(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(SweepError, match="--png needs kaleido"):
        write_png({}, tmp_path / "png")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_figures_as_png(finished_run: Path, tmp_path: Path) -> None:
    results = load_results(finished_run)
    trial = results.summary["winner"]["trial"]
    evidence = winner_on_val(results, RunFolder(finished_run), trial, finished_run.parent / "cache")
    write_png({"calibration": reliability_diagram(evidence)}, tmp_path / "png")
    with Image.open(tmp_path / "png" / "calibration.png") as image:
        assert len(image.convert("RGB").getcolors(2**24) or []) > 10


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("name", ["finished_run", "pareto_run"])
def test_page_in_a_browser(name: str, request: pytest.FixtureRequest, report: Report, tmp_path: Path) -> None:
    report(request.getfixturevalue(name))
    assert CHROMIUM is not None
    screenshot = tmp_path / "page.png"
    options = [*SILENT, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,4600"]
    page = (tmp_path / "report.html").as_uri()
    done = subprocess.run(
        [CHROMIUM, *options, f"--screenshot={screenshot}", page],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "WebGL" not in line]
    assert said == [], "the browser reports nothing, apart from its graphics driver"
    with Image.open(screenshot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    for third in np.array_split(pixels[:3600], 3):  # figures all the way down, not a blank page
        coloured = np.ptp(third, axis=-1) > 60
        assert coloured.sum() > 500
