"""`sweep export --push`: what is uploaded, and what the hub reads from it. The tests use no network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import RepoCard

from sweep.errors import SweepError, UsageError
from sweep.export.config import CARD_FILE
from sweep.export.hub import card_metadata, push_model, require_hub
from sweep.export.write import export_run
from sweep.records.results import load_results


@dataclass
class FakeHub:
    """A stand-in for the hub that records what is uploaded. With `refuses=True` it raises an error."""

    refuses: bool = False
    made: list[tuple[str, bool]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        assert exist_ok
        if self.refuses:
            raise OSError("no route to the hub")
        self.made.append((repo_id, private))

        class Url(str):
            repo_id = "me/coins"

        return Url("https://hub/me/coins")

    def upload_folder(self, *, repo_id: str, folder_path: str, ignore_patterns: list[str], **_: Any) -> None:
        for path in Path(folder_path).iterdir():
            if path.name not in ignore_patterns:
                self.files[path.name] = path.read_bytes()

    def upload_file(self, *, repo_id: str, path_or_fileobj: bytes, path_in_repo: str, **_: Any) -> None:
        self.files[path_in_repo] = path_or_fileobj


@pytest.fixture
def model(finished_run: Path, tmp_path: Path) -> Path:
    export_run(finished_run, tmp_path / "model", with_backbone=False, cache_dir=finished_run.parent / "cache")
    return tmp_path / "model"


def test_model_and_card_are_pushed(finished_run: Path, model: Path) -> None:
    results, hub = load_results(finished_run), FakeHub()
    card = (model / CARD_FILE).read_text()
    address = push_model(model, "coins", card_metadata(results, was_measured=True), api=hub)
    assert (address, hub.made) == ("https://hub/me/coins", [("coins", True)])
    assert set(hub.files) == {path.name for path in model.iterdir()}
    pushed = RepoCard(hub.files[CARD_FILE].decode(), ignore_metadata_errors=False)
    assert card.strip() in pushed.content
    assert (model / CARD_FILE).read_text() == card
    data = yaml.safe_load(pushed.content.split("---")[1])
    assert (data["library_name"], data["pipeline_tag"]) == ("sweep", "image-classification")
    (entry,) = data["model-index"][0]["results"]
    assert entry["metrics"][0]["type"] == "accuracy"
    assert entry["metrics"][0]["value"] == results.summary["winner"]["test"]["top1"]


def test_a_trial_that_was_not_tested_has_no_results_on_its_card(finished_run: Path) -> None:
    assert "model-index" not in card_metadata(load_results(finished_run), was_measured=False)


def test_a_refused_upload_is_reported(model: Path) -> None:
    with pytest.raises(SweepError, match=r"cannot push to me/coins: no route to the hub\. The model in .* is whole"):
        push_model(model, "me/coins", "", api=FakeHub(refuses=True))


@pytest.mark.parametrize("name", ["", "a/b/c", "me/co ins", "https://hub/me/coins"])
def test_invalid_repository_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--push must be a repository on the hub"):
        require_hub(name)


def test_the_command_pushes_the_winner(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sweep.cli.export import export

    hub = FakeHub()
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: hub)
    export(finished_run, tmp_path / "shipped", with_backbone=False, push="me/coins")
    assert b"model-index" in hub.files[CARD_FILE]
    assert "on the hub: https://hub/me/coins" in capsys.readouterr().out
