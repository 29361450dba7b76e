"""A run gives the same tables whatever the calling program has set, or does in other threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch

import sweep
from sweep import LaneConfig, Study
from sweep.records.reporter import Reporter

CHANGES_EVERY_TIME = ["seconds"]


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [1, 2])
    )


@pytest.fixture(scope="module")
def run(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., sweep.Run]]:
    folder = tmp_path_factory.mktemp("runs")

    def start(out: str, **declared: Any) -> sweep.Run:
        study = Study(
            suggest=suggest,
            baseline={"lr": 1e-2, "rank": 2},
            max_rank=2,
            backbone="tiny-untrained",
            data=str(drawn_images),
            group_size=2,
            trials=4,
            epochs=2,
            batch_size=16,
            **declared,
        )
        return sweep.run(study, n_parallel=2, device="cpu", out=folder / out, reporter=Reporter())

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SWEEP_CACHE_DIR", str(drawn_images.parent / "cache"))
        yield start


@pytest.fixture(scope="module")
def expected(run: Callable[..., sweep.Run]) -> sweep.Run:
    """A run of a program that has set nothing."""
    return run("expected")


def tables(run: sweep.Run) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    summary = [run.summary["winner"], run.summary["linear_probe"]]
    return run.trials.drop(columns=CHANGES_EVERY_TIME), run.curves, summary


def assert_alike(ours: sweep.Run, theirs: sweep.Run) -> None:
    for one, other in zip(tables(ours)[:2], tables(theirs)[:2], strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert tables(ours)[2] == tables(theirs)[2]


@contextmanager
def default_dtype() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_dtype": default_dtype,
    "default_device": lambda: torch.device("meta"),
    "seterr": lambda: np.errstate(all="raise"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_callers_settings_change_no_result_and_are_kept(
    run: Callable[..., sweep.Run], expected: sweep.Run, name: str
) -> None:
    with SETTINGS[name]():
        before = _seen()
        found = run(name)
        weights = found.best.load().state_dict()
        assert _seen() == before
    assert_alike(found, expected)
    kept = expected.best.load().state_dict()
    assert all(torch.equal(weights[key], kept[key]) and weights[key].dtype == kept[key].dtype for key in kept)


def _seen() -> list[Any]:
    return [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        np.geterr(),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # all threads share the warning filters
def test_runs_in_several_threads_agree_with_one_alone(run: Callable[..., sweep.Run]) -> None:
    expected, found, errors = run("alone"), {}, []

    def in_thread(number: int) -> None:
        try:
            found[number] = run(f"thread-{number}")
        except Exception as error:
            errors.append(error)

    over = threading.Event()

    def draw() -> None:
        while not over.wait(1e-4):
            torch.manual_seed(1)
            torch.rand(3)
            np.random.rand()

    threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(3)]
    threads.append(threading.Thread(target=draw))
    for thread in threads:
        thread.start()
    for thread in threads[:-1]:
        thread.join()
    over.set()
    threads[-1].join()
    assert not errors
    for one in found.values():
        assert_alike(one, expected)
    assert torch.get_default_dtype() == torch.float32
    with nullcontext():
        assert_alike(run("again", seed=0), expected)
