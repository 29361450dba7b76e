"""Optuna's journal on a file system without symbolic links, and in a folder that was renamed or copied."""

import os
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweep.records.folder import RunFolder
from sweep.search.optuna_storage import create_optuna_study, load_optuna_study
from sweep.study.objectives import Objectives


def made(folder: Path) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    objectives = Objectives({"val_top1": "maximize"})
    return create_optuna_study(None, RunFolder(folder), objectives=objectives, sampler=sampler, goes_on=True)


def test_a_journal_without_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    study = made(tmp_path)
    study.tell(study.ask(), 0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.journal"]
    (tmp_path / "config.json").write_text("{}")
    assert [trial.value for trial in load_optuna_study(RunFolder(tmp_path), None, "").get_trials()] == [0.5]


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_a_run_folder_of_another_name_can_be_resumed(tmp_path: Path, move: Any) -> None:
    (tmp_path / "first").mkdir()
    study = made(tmp_path / "first")
    study.tell(study.ask(), 0.5)
    move(tmp_path / "first", tmp_path / "second")
    again = made(tmp_path / "second")
    assert again.study_name == "first"
    assert len(again.get_trials()) == 1
    storage = again._storage
    assert len(optuna.study.get_all_study_names(storage)) == 1
