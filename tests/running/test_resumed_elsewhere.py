"""A run that goes on with other versions or on another processor says so in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sweep.machine.conditions import processor_of
from sweep.records.reporter import Reporter
from sweep.running.resume import resume_run
from sweep.verify.verify import verify_trial
from tests.conftest import draw_images, run_on, study_on

CPU = torch.device("cpu")


class Messages(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("elsewhere") / "images", "everywhere")


@pytest.fixture(scope="module")
def run(images: Path) -> Path:
    return run_on(images, "run", trials=2, epochs=1)


def resumed(run: Path, images: Path, config: dict[str, Any]) -> list[str]:
    """Resume a run with this record, and return the messages about what is different."""
    (run / "config.json").write_text(json.dumps(config))
    (run / "summary.json").unlink()
    reporter = Messages()
    study = study_on(images, trials=2, epochs=1)
    resume_run(run, study, storage_url=None, cache_dir=images.parent / "cache", reporter=reporter)
    assert (run / "summary.json").is_file()
    return [line for line in reporter.said if "the run began with" in line]


def test_a_resumed_run_says_what_differs_and_verify_knows_it(run: Path, images: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    here = processor_of(CPU)
    assert (config["processor"], "numba" in config["versions"]) == (here, True)
    assert resumed(run, images, config) == []
    elsewhere = {**config, "processor": "a calculator", "versions": {**config["versions"], "numba": "0.1"}}
    numba = config["versions"]["numba"]
    assert resumed(run, images, elsewhere) == [
        f"note: the run began with processor a calculator, here {here}, numba 0.1, here {numba}. The last digits of "
        f"the results may differ from those of a run that was never stopped"
    ]
    changed = verify_trial(run, 0, device=CPU, cache_dir=images.parent / "cache").changed
    assert changed == {"processor": ("a calculator", here), "numba": ("0.1", numba)}


def test_a_record_of_an_older_version_says_nothing_and_goes_on(run: Path, images: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    old = {name: value for name, value in config.items() if name != "processor"}
    old["versions"] = {name: value for name, value in config["versions"].items() if name != "numba"}
    assert resumed(run, images, old) == []
    assert verify_trial(run, 0, device=CPU, cache_dir=images.parent / "cache").changed == {}
