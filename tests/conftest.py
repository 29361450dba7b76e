"""Fixtures for all tests."""

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from PIL import Image

from sweep import LaneConfig, Study
from sweep.records.reporter import Reporter
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy
from sweep.study.probe import EPOCHS_FACTOR
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.workers.request import WorkersAsked

PROBES = ("sweep.training.linear_probe_reference", "sweep.running.retrain")
"""Modules that train linear probes."""


def pytest_configure() -> None:
    """Divide the CPU cores among the workers of pytest-xdist. The commands that they start inherit the setting."""
    n_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if n_workers > 1:
        n_threads = max(1, torch.get_num_threads() // n_workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
        torch.set_num_threads(n_threads)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make undecodable file names in captured logs printable, because pytest-xdist can send valid text only."""
    report = yield
    report.sections = [
        (heading, logged.encode(errors="backslashreplace").decode()) for heading, logged in report.sections
    ]
    return report


@pytest.fixture(scope="session", autouse=True)
def _quick_runs() -> Generator[None]:
    """Make runs in this process quicker. Their trials stay the same.

    A plan times two steps of a stack instead of eight, and looks at 64 configurations of a study instead of 256. The
    linear probe trains as long as the trials and not four times as long, except in tests with `whole_probe`. Files are
    not flushed to the disk: that protects against power cuts, and no test has one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweep.running.timing.CALIBRATION_STEPS", 2)
        patch.setattr("sweep.study.rehearsal.SURVEYED", 64)
        for module in PROBES:
            patch.setattr(f"{module}.EPOCHS_FACTOR", 1)
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def whole_probe() -> Generator[None]:
    """From here on, the linear probes of this module train as long as those of a user."""
    with pytest.MonkeyPatch.context() as patch:
        for module in PROBES:
            patch.setattr(f"{module}.EPOCHS_FACTOR", EPOCHS_FACTOR)
        yield


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return sweep's cache folder.

    This is `SWEEP_CACHE_DIR` if it is set, so that downloads are kept, and else a temporary folder.
    """
    named = os.environ.get("SWEEP_CACHE_DIR")
    return Path(named) if named else tmp_path_factory.mktemp("sweep_cache")


@pytest.fixture
def one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack is a single `Training`, however many threads there are, so that a test can count stacks."""
    monkeypatch.setattr("sweep.training.parts.n_parts", lambda *_: 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 8 noisy images."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def suggest(trial: optuna.Trial) -> LaneConfig:
    return LaneConfig(
        lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=trial.suggest_categorical("rank", [1, 2])
    )


def study_on(images: Path, **declared: Any) -> LoadedStudy:
    """Return a study of drawn images."""
    study = Study(
        suggest=suggest,
        baseline={"lr": 1e-2, "rank": 2},
        max_rank=2,
        backbone="tiny-untrained",
        data=str(images),
        group_size=2,
        batch_size=16,
        **{"epochs": 3, **declared},
    )
    return LoadedStudy("drawn", Path("drawn.py"), study)


def run_on(
    images: Path,
    name: str,
    *,
    n_parallel: int = 2,
    reporter: Reporter | None = None,
    n_workers: int = 0,
    **declared: Any,
) -> Path:
    """Run a small study on drawn images. Its run folder, called `name`, lies beside them."""
    folder = run_study(
        study_on(images, **declared),
        n_parallel=n_parallel,
        out=images.parent / name,
        storage_url=None,
        device_name="cpu",
        cache_dir=images.parent / "cache",
        reporter=reporter or LineReporter(stderr),
        workers=WorkersAsked(n_workers),
    )
    return folder.path


def draw_images(root: Path, third: str) -> Path:
    """Draw three classes of 20 noisy images: brighter in the upper half, in the lower half, and everywhere."""
    rng = np.random.default_rng(0)
    for name, rows in (("above", slice(0, 16)), ("below", slice(16, 32)), (third, slice(0, 32))):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 190, (32, 32, 3))
            pixels[rows] += 40
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def drawn_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `draw_images`."""
    return draw_images(tmp_path_factory.mktemp("drawn") / "images", "everywhere")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four trials on three classes of drawn images. The name of one class contains HTML."""
    root = tmp_path_factory.mktemp("finished")
    return run_on(draw_images(root / "images", "<img src=x onerror=console.error(1)>"), "run", trials=4)


@pytest.fixture(scope="session")
def pareto_run(finished_run: Path) -> Path:
    """A run with several objectives, on the images and features of `finished_run`."""
    objectives = {"val_nll": "minimize", "trainable_parameters": "minimize", "val_spread": "maximize"}
    metrics = {"spread": lambda logits, labels: float(logits.std())}
    return run_on(finished_run.parent / "images", "pareto", trials=6, objectives=objectives, metrics=metrics)


COLOURS = ("red", "blue", "green")
WORDS = ("a", "the", "car", "house", "is", "was", "very", "not", "old", "new", *COLOURS)
TEXT_VOCABULARY = 64


def save_tokenizer(folder: Path, *, special: bool) -> None:
    """Save a tokenizer of a few words. With `special`, it adds a token at both ends of a text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
    tokenizer = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))


def save_text_network(folder: Path, model_type: str, **options: Any) -> Path:
    """Save a small text network of transformers with seeded random weights, and its tokenizer."""
    from transformers import CONFIG_MAPPING, AutoModel

    config = CONFIG_MAPPING[model_type](vocab_size=TEXT_VOCABULARY, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoModel.from_config(config)
        for parameter in network.parameters():  # as after training: biases are not zero, and scales are not one
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    network.save_pretrained(folder)
    save_tokenizer(folder, special=model_type == "bert")
    return folder


SMALL_DECODER = {"n_embd": 32, "n_layer": 4, "n_head": 2, "n_positions": 48}
SMALL_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
}


@pytest.fixture(scope="session")
def text_network(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a small text network with random weights: `text_network("xlnet", d_model=16)`."""

    def make(model_type: str, **options: Any) -> Path:
        return save_text_network(tmp_path_factory.mktemp("network") / model_type, model_type, **options)

    return make


@pytest.fixture(scope="session")
def text_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GPT-2 of four blocks with random weights."""
    return save_text_network(tmp_path_factory.mktemp("decoder") / "gpt2", "gpt2", **SMALL_DECODER)


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT of four blocks with random weights."""
    return save_text_network(tmp_path_factory.mktemp("encoder") / "bert", "bert", **SMALL_ENCODER)


def some_texts(number: int, seed: int) -> tuple[list[str], list[str]]:
    """Return texts of 1 to 12 words with one colour word each, and the list of these colours."""
    rng = np.random.default_rng(seed)
    texts, colours = [], []
    for _ in range(number):
        words = [str(word) for word in rng.choice(WORDS[:-3], rng.integers(0, 12))]
        colours.append(str(rng.choice(COLOURS)))
        words.insert(int(rng.integers(0, len(words) + 1)), colours[-1])
        texts.append(" ".join(words))
    return texts, colours


@pytest.fixture(scope="session")
def text_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 90 texts. The label of a text is its colour word."""
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    texts, colours = some_texts(90, seed=0)
    pd.DataFrame({"text": texts, "label": colours}).to_csv(path, index=False)
    return path
