"""The command in its own process, with pretrained weights and scanned digits."""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import sweep
from sweep.cli import app

N_TRIALS = 5
SMALL = ["--data", "mnist", "--image-size", "28", "--trials", str(N_TRIALS), "--epochs", "2", "--n-parallel", "3"]


@pytest.fixture(scope="module")
def environment(cache_dir: Path) -> dict[str, str]:
    return {**os.environ, "SWEEP_CACHE_DIR": str(cache_dir), "NO_COLOR": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "sweep", *arguments]


def call(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def run(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return the folder of a finished run, and what the run printed."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = call(environment, "run", "--study", "lr_rank", *SMALL, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


def test_run_ends_with_table_reference_and_the_next_commands(run: tuple[Path, str, str]) -> None:
    out, stdout, stderr = run
    assert sweep.load_results(out).config["backbone"] == "dinov2_small_focus"
    trials = sweep.load_results(out).trials
    assert len(trials) == N_TRIALS
    assert (trials["state"] == "COMPLETE").all()
    best = trials.iloc[0]
    assert re.search(rf"│ +{best['trial']} │ {best['val_top1']:.3f} │", stdout)
    summary = sweep.load_results(out).summary
    for row in (summary["winner"], summary["linear_probe"]):
        assert f"{row['test']['top1']:.3f} ±" in stdout
    assert f"sweep dashboard {out}" in stdout
    assert f"sweep results {out}" in stdout
    assert f"{N_TRIALS}.0 of {N_TRIALS} trials: best val_top1" in stderr
    assert "\x1b" not in stdout + stderr, "no terminal codes if the output is no terminal"


@pytest.mark.slow
def test_second_run_repeats_the_numbers_without_a_backbone_forward(
    run: tuple[Path, str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "second"
    done = call(environment, "run", "--study", "lr_rank", *SMALL, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "no backbone forward" in done.stderr
    first, second = sweep.load_results(run[0]), sweep.load_results(out)
    assert second.summary["n_images_computed"] == 0
    pd.testing.assert_frame_equal(
        first.trials.drop(columns="seconds"), second.trials.drop(columns="seconds"), check_exact=True
    )
    pd.testing.assert_frame_equal(first.curves, second.curves, check_exact=True)
    assert first.summary["winner"] == second.summary["winner"]


def test_results_in_three_formats(run: tuple[Path, str, str], environment: dict[str, str]) -> None:
    trials = sweep.load_results(run[0]).trials
    as_json = json.loads(call(environment, "results", str(run[0]), "--format", "json").stdout)
    assert [row["trial"] for row in as_json["trials"]] == list(trials["trial"])
    assert as_json["summary"]["winner"]["trial"] == trials.loc[0, "trial"]
    as_csv, table = (
        CliRunner().invoke(app, ["results", str(run[0]), *options]).stdout for options in (("--format", "csv"), ())
    )
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(as_csv))[["trial", "val_nll"]], trials[["trial", "val_nll"]])
    assert table.count("lr=") == N_TRIALS


@contextlib.contextmanager
def started(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command as a terminal does. Ctrl-C then reaches it even if the tests run in the background."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command(*arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, inherited)
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def dashboard(environment: dict[str, str], run: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with started(environment, "dashboard", str(run), "--port", str(port)) as server:
        yield f"http://localhost:{port}"
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


def fetch(url: str, patience_seconds: float = 60) -> Any:
    give_up = time.monotonic() + patience_seconds
    while True:
        try:
            with urllib.request.urlopen(url) as response:
                return json.load(response)
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def test_dashboard_shows_the_same_trials(run: tuple[Path, str, str], environment: dict[str, str]) -> None:
    trials = sweep.load_results(run[0]).trials.set_index("trial")
    with dashboard(environment, run[0]) as url:
        (study,) = fetch(f"{url}/api/studies")["study_summaries"]
        page = fetch(f"{url}/api/studies/{study['study_id']}")
        shown = page["trials"]
        (weights,) = (a for a in page["artifacts"] if a["filename"].endswith(".safetensors"))
        with urllib.request.urlopen(f"{url}/artifacts/{study['study_id']}/{weights['artifact_id']}") as response:
            assert response.read() == (run[0] / "winner.safetensors").read_bytes()
    assert page["objective_names"] == ["val_top1"]
    assert f"winner, trial {trials.index[0]}, " in page["note"]["body"]
    assert {"sweep:seed", "sweep:lane", "sweep:seconds"} <= {attribute["key"] for attribute in shown[0]["user_attrs"]}
    assert study["study_name"] == run[0].name
    assert {t["number"]: t["values"][0] for t in shown} == trials["val_top1"].to_dict()
    assert {t["state"] for t in shown} == {"Complete"}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_stopped_run_ends_with_the_table_so_far(
    environment: dict[str, str], drawn_images: Path, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "interrupted"
    tiny = ("--data", str(drawn_images), "--backbone", "tiny-untrained", "--group-size", "2", "--epochs", "2000")
    at_once = ("--trials", "3", "--n-parallel", "3")  # no trial begins late, so all have numbers
    with started(environment, "run", "--study", "lr_rank", *tiny, *at_once, "--out", str(out)) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(" of 3 trials: " in line for line in lines)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "in training, after epoch" in stdout
    assert f"sweep resume {out}" in stderr
    assert "Traceback" not in stderr
    trials = sweep.load_results(out).trials
    assert set(trials["state"]) <= {"RUNNING", "PRUNED", "COMPLETE"}
    assert (trials["state"] == "RUNNING").any()
    assert trials["val_top1"].notna().all()


def test_command_is_python_dash_m_and_console_script(environment: dict[str, str]) -> None:
    script = Path(sys.executable).with_name("sweep")
    helps = [call(environment, "--help").stdout]
    helps.append(subprocess.run([script, "--help"], env=environment, capture_output=True, text=True, check=True).stdout)
    for text in helps:
        assert "sweep run --study lr_rank --n-parallel 32" in text
