"""Readers that a search uses, for the fuzz tests: requests from another terminal, and snapshots."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from fuzzed_labels import STUDY
from fuzzing import Reader, damaged, wrong_entries
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from safetensors.torch import save

from sweep.features.batches import StageData
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter, SearchProgress
from sweep.running.announcing import taken_up
from sweep.running.runner import save_tables
from sweep.running.snapshot_files import SnapshotFiles
from sweep.search.occupancy import Occupancy
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox, Request
from sweep.search.samplers import make_sampler
from sweep.search.search import Search
from sweep.search.snapshot import Snapshot, capture, restore
from sweep.search.training_here import TrainingHere
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.budget import Budget
from sweep.training.lane_stack import StackSetting

SPEC = SideNetworkSpec(
    width=3, n_stages=2, n_classes=3, n_prefix_tokens=1, modules_per_block=1, pool="mean", max_rank=2
)
DATA = StageData(np.arange(6 * 2 * 3 * 3).reshape(6, 2, 3, 3).astype(np.float16) / 100, torch.arange(6) % 3, 3)


SETTING = StackSetting.of(STUDY, SPEC, 3, DATA, DATA)
"""The setting of all stacks."""


class AfterAnEpoch(Reporter):
    """Calls `do` once, after the first epoch."""

    def __init__(self, do: Callable[[], object]):
        self.do = do

    def epoch_ended(self, progress: SearchProgress) -> None:
        self.do()
        self.do = lambda: None


def new_search(
    folder: Path, storage: InMemoryStorage, reporter: Reporter, on_save: Callable[[Search], object]
) -> Search:
    """Create a search of three trials on two lanes and six artificial images. It takes a few hundredths of a second."""
    sampler = make_sampler("random", seed=0, grid=None, n_objectives=1)
    study = optuna.create_study(
        study_name="run", storage=storage, sampler=sampler, direction="maximize", load_if_exists=True
    )
    return Search(
        Proposals(study, STUDY, sampler),
        Occupancy(
            STUDY,
            lambda shape: SETTING,
            TrainingHere(lambda shape: SETTING, torch.device("cpu")),
            n_parallel=2,
            device=torch.device("cpu"),
        ),
        budget=Budget(),
        reporter=reporter,
        inbox=Inbox(RunFolder(folder)),
        save_tables=partial(save_tables, RunFolder(folder)),
        save_snapshot=on_save,
    )


def read_request(folder: Path, content: bytes) -> None:
    """Run a search and leave a request in its course. The search ends normally and writes its tables."""
    path = RunFolder(folder).requests_path / "request.json"
    path.unlink(missing_ok=True)

    def ask() -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    search = new_search(folder, InMemoryStorage(), AfterAnEpoch(ask), lambda search: json.dumps(capture(search).state))
    while not search.ended:
        search._advance()  # all that `run` does, except for garbage collection, which would take most of the time
    search.save_tables(search)


def a_snapshot(folder: Path) -> tuple[bytes, Snapshot]:
    """Return a pickled storage and a snapshot of the search, when two trials have ended and one is training."""
    storage = InMemoryStorage()
    search = new_search(folder, storage, Reporter(), lambda search: None)
    for _ in range(STUDY.epochs + 1):
        search._advance()
    return pickle.dumps(storage), capture(search)


def file_content(state: Any, tensors: dict[str, torch.Tensor]) -> bytes:
    return save(tensors, {"state": json.dumps(state)})


def read_snapshot(stored: bytes, folder: Path, content: bytes) -> None:
    """Continue a search from a damaged snapshot whose file name matches its content."""
    shutil.rmtree(folder / "snapshots", ignore_errors=True)
    (folder / "snapshots").mkdir()
    digest = hashlib.sha256(content).hexdigest()[:16]
    (folder / "snapshots" / f"snapshot-000001-{digest}.safetensors").write_bytes(content)
    search = new_search(folder, pickle.loads(stored), Reporter(), lambda search: None)
    snapshot = SnapshotFiles(folder / "snapshots", lambda line: None).newest()
    assert snapshot is not None
    restore(search, snapshot)
    assert taken_up(search).startswith("continuing")


def search_readers(folder: Path) -> dict[str, Reader]:
    requests = [asdict(Request("stop", 1)), asdict(Request("clone", 1, {"lr": 0.02, "rank": 1, "loss": "focal"}))]
    written = [json.dumps(request).encode() for request in requests]
    stored, snapshot = a_snapshot(folder)
    intact = file_content(snapshot.state, snapshot.tensors)
    names = st.sampled_from(sorted(snapshot.tensors))
    shapes = st.sampled_from([torch.zeros(0), torch.full((3, 4), 10**9), torch.ones((), dtype=torch.bool)])

    def other_tensor(name: str, tensor: torch.Tensor) -> bytes:
        return file_content(snapshot.state, {**snapshot.tensors, name: tensor})

    states = wrong_entries(snapshot.state).map(lambda state: file_content(json.loads(state), snapshot.tensors))
    return {
        "requests": Reader(
            damaged(written) | st.sampled_from(requests).flatmap(wrong_entries), read_request, 60, 3_000, written
        ),
        "snapshots": Reader(
            damaged([intact]) | states | st.builds(other_tensor, names, shapes),
            partial(read_snapshot, stored),
            100,
            10_000,
            [intact],
        ),
    }
