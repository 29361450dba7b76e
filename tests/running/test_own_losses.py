"""A study file's own losses can be searched by name, resumed, verified and exported. Unusable ones are refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sweep
from sweep.api.run import run as run_study
from sweep.errors import UsageError
from sweep.export.write import export_run
from sweep.running.resume import resume_run
from sweep.study.declaration import Study
from sweep.study.finding import load_study
from sweep.study.lane_config import LaneConfig
from sweep.tasks import own_losses
from sweep.tasks.kinds import MULTI_LABEL
from sweep.tasks.lane_losses import LaneLosses
from sweep.tasks.own_losses import own_loss
from sweep.terminal.console import stderr
from sweep.terminal.progress import LineReporter
from sweep.verify.verify import verify_trial

STUDY = """
import torch
import torch.nn.functional as F

from sweep import LaneConfig, Study


def poly1(logits, labels, epsilon=1.0):
    of_label = -F.cross_entropy(logits, labels, reduction="none")
    return epsilon * -torch.expm1(of_label) - of_label


def suggest(trial):
    loss = trial.suggest_categorical("loss", ["poly1", "cross_entropy"])
    extra = {"epsilon": trial.suggest_float("epsilon", 0.5, 4)} if loss == "poly1" else {}
    return LaneConfig(lr=trial.suggest_float("lr", 1e-3, 1e-1, log=True), rank=2, loss=loss, extra=extra)


study = Study(
    suggest=suggest,
    baseline={"loss": "poly1", "epsilon": 2.0, "lr": 1e-2},
    losses={"poly1": poly1},
    backbone="tiny-untrained",
    group_size=2,
    epochs=2,
    batch_size=16,
    trials=3,
)
"""
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def losses_are_forgotten() -> Iterator[None]:
    """Forget the losses of this file at the end. A run on workers sends all losses that its process knows."""
    yield
    own_losses._given.clear()
    own_loss.cache_clear()


@pytest.fixture(scope="module")
def own_run(drawn_images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a run folder and its study file."""
    root = tmp_path_factory.mktemp("own")
    file = root / "mine.py"
    file.write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEP_CACHE_DIR", str(drawn_images.parent / "cache"))
        run_study(file, n_parallel=3, out=root / "run", data=str(drawn_images), device="cpu")
    return root / "run", file


def test_an_own_loss_is_searched_by_name_and_recorded(own_run: tuple[Path, Path]) -> None:
    results = sweep.load_results(own_run[0])
    assert results.config["losses"] == ["poly1"]
    baseline = results.trials.set_index("trial").loc[0]
    assert baseline["params_loss"] == "poly1"
    of_baseline = json.loads(baseline["lane_config"])
    assert of_baseline["loss"].startswith("own:poly1:")
    assert of_baseline["extra"] == {"epsilon": 2.0}


def test_a_trial_is_verified_if_the_study_file_is_given(
    own_run: tuple[Path, Path], drawn_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, file = own_run
    cache = drawn_images.parent / "cache"
    own_loss.cache_clear()
    monkeypatch.setattr(own_losses, "_given", {})  # as in another process
    with pytest.raises(UsageError, match=r"the loss poly1 is from a study file .* only if you give them: --study FILE"):
        verify_trial(run, 0, device=CPU, cache_dir=cache)
    assert verify_trial(run, 0, device=CPU, cache_dir=cache, own_study=file).kept


def test_a_run_can_be_resumed_and_its_model_needs_no_study_file(
    own_run: tuple[Path, Path], drawn_images: Path, tmp_path: Path
) -> None:
    run, file = own_run
    cache = drawn_images.parent / "cache"
    before = sweep.load_results(run)
    (run / "summary.json").unlink()
    resume_run(run, load_study(str(file)), storage_url=None, cache_dir=cache, reporter=LineReporter(stderr))
    assert sweep.load_results(run).summary["winner"] == before.summary["winner"]
    export_run(run, tmp_path / "shipped", cache_dir=cache)
    sweep.load_model(tmp_path / "shipped")


def poly1(logits: Tensor, labels: Tensor, epsilon: float = 1.0) -> Tensor:
    of_label = -F.cross_entropy(logits, labels, reduction="none")
    return epsilon * -torch.expm1(of_label) - of_label


def to_a_power(logits: Tensor, labels: Tensor) -> Tensor:
    """A loss whose bits depend on the position: PyTorch's `pow` and `sigmoid` round differently within a tensor."""
    return (torch.sigmoid(logits) ** 1.7).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def test_lanes_have_their_own_parameters_and_the_same_bits_in_any_stack() -> None:
    names = [own_loss("poly1", poly1), own_loss("to_a_power", to_a_power)]
    configs = [
        LaneConfig(lr=1e-3, loss=names[0], extra={"epsilon": 3.0, "note": "not a parameter"}),
        LaneConfig(lr=1e-3, loss=names[1]),
        LaneConfig(lr=1e-3, loss="focal"),
        LaneConfig(lr=1e-3, loss=names[0]),
        LaneConfig(lr=1e-3, loss=names[1]),
    ]
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 13, 7, generator=generator), torch.randint(0, 7, (13,), generator=generator)
    counts = torch.ones(7)
    together = LaneLosses(configs, counts, torch.float32)(logits, labels)
    expected = torch.stack([poly1(logits[0], labels, 3.0).mean(), poly1(logits[3], labels).mean()])
    torch.testing.assert_close(together[[0, 3]], expected, rtol=1e-6, atol=1e-6)
    for i, config in enumerate(configs):
        alone = LaneLosses([config] * 2, counts, torch.float32)(logits[[i, i]], labels)
        assert torch.equal(alone[0], together[i]), i


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return epsilon", "return 1 / 0 * epsilon", r"loss poly1 failed: ZeroDivisionError: .*mine.py, line"),
        ("return epsilon *", "return epsilon.mean() *", r"loss poly1 failed: AttributeError"),
        ('losses={"poly1": poly1}', 'losses={"focal": poly1}', "'focal'.*under a new name"),
        ('losses={"poly1": poly1}', 'losses={"poly-1": poly1}', "'poly-1'.*under a new name"),
        ('losses={"poly1": poly1}', 'losses={"poly1": 3}', "'poly1': 3; give a function of outputs and labels"),
        ('["poly1", "cross_entropy"]', '["poly1", "poly2"]', "LaneConfig.loss"),
        ("return epsilon", "return of_label.sum(); return epsilon", r"for each of 16 images, as .* shape \(\)"),
        ("return epsilon", "return 3.0; return epsilon", r"for each of 16 images.*returned 3.0"),
    ],
)
def test_an_unusable_loss_gives_one_clear_error(
    old: str, new: str, message: str, drawn_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(drawn_images.parent / "cache"))
    file = tmp_path / "mine.py"
    assert old in STUDY
    file.write_text(STUDY.replace(old, new))
    with pytest.raises(UsageError, match=message):
        run_study(file, n_parallel=3, out=tmp_path / "run", data=str(drawn_images), device="cpu", trials=12)


def test_class_weights_of_labels_are_refused() -> None:
    config = LaneConfig(lr=1e-3, loss=own_loss("poly1", poly1), class_weights="balanced")
    with pytest.raises(UsageError, match="weigh the labels in the loss"):
        config.on(MULTI_LABEL)


def test_two_studies_may_have_losses_of_one_name() -> None:
    def suggest(trial: object) -> LaneConfig:
        return LaneConfig(lr=1e-3, loss="mine")

    texts = []
    for loss in (poly1, torch.nn.functional.cross_entropy):
        study = Study(suggest=suggest, baseline={}, losses={"mine": loss})
        texts.append(study.lane_config(None).loss)  # type: ignore[arg-type]
    assert texts[0] != texts[1]
