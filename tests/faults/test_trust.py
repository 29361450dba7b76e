"""Nothing in a file from somebody else is executed. (That lists do not lead out of their folder: see tests/data.)"""

import ast
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import constants
from optuna.storages import JournalStorage
from optuna.storages.journal._base import BaseJournalSnapshot
from rich.console import Console

import backbones.hub
from backbones import load_backbone
from sweep import SweepError
from sweep.cli.show import show_trials
from sweep.machine.checked_files import read_table
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.records.trial_log import TrialLog, TrialRecord
from sweep.search.optuna_storage import open_storage
from sweep.study.objectives import Objectives

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("sweep", "backbones", "studies") for path in (ROOT / package).rglob("*.py"))
CODE_IN_DATA = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "pty"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "to_pickle", "exec_module", "run_path"}


def dangers(source: str) -> Iterator[str]:
    """Yield the parts of a program that could execute data.

    These are imports such as pickle, loaders without a safe mode, `eval` and the like.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (name for name in names if CODE_IN_DATA & set(name.split(".")))
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            unguarded = called == "torch.load" and keywords.get("weights_only") != "True"
            if called in BUILTINS or called == "os.system" or called.split(".")[-1] in METHODS or unguarded:
                yield called
            if keywords.get("allow_pickle", "False") != "False" or keywords.get("shell", "False") != "False":
                yield f"{called}({keywords})"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
        "eval('1')",
        "pd.read_pickle('x')",
        "import yaml",
        "spec.loader.exec_module(module)",
        "subprocess.run('x', shell=True)",
    ],
)
def test_a_danger_is_found(source: str) -> None:
    assert list(dangers(source))


def test_the_product_has_no_dangers() -> None:
    """Two exceptions: files of code that the user names, and what a run sends to the workers that it started."""
    assert len(MODULES) > 50
    found = {str(path.relative_to(ROOT)): list(dangers(path.read_text(encoding="utf-8"))) for path in MODULES}
    assert {name: calls for name, calls in found.items() if calls} == {
        "sweep/machine/user_code.py": ["spec.loader.exec_module"],
        "sweep/workers/packing.py": ["pickle", "cloudpickle"],
    }


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """The file that a `Bomb` creates. Check first that it works, and at the end that it was not executed."""
    trace = tmp_path / "executed"
    pickle.loads(pickle.dumps(Bomb(trace)))
    trace.unlink()
    yield trace
    assert not trace.exists()


@pytest.mark.parametrize("how", ["extension type", "pandas notes", "binary column", "nested column"])
def test_a_table_executes_nothing(trace: Path, tmp_path: Path, how: str) -> None:
    bomb = pickle.dumps(Bomb(trace))
    columns: dict[str, Any] = {"trial": pa.array([0.0]), "state": pa.array(["COMPLETE"])}
    fields = {name: pa.field(name, column.type) for name, column in columns.items()}
    notes: dict[bytes, bytes] = {}
    if how == "extension type":
        extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
        columns["evil"], fields["evil"] = pa.array([bomb]), pa.field("evil", pa.binary(), metadata=extension)
    elif how == "pandas notes":
        column = {"name": "trial", "field_name": "trial", "pandas_type": "object", "numpy_type": "object"}
        notes[b"pandas"] = json.dumps(
            {"index_columns": ["state"], "columns": [column | {"metadata": bomb.hex()}]}
        ).encode()
    elif how == "binary column":
        columns["evil"], fields["evil"] = pa.array([bomb]), pa.field("evil", pa.binary())
    else:
        columns["evil"] = pa.array([[bomb]])
        fields["evil"] = pa.field("evil", columns["evil"].type)
    path = tmp_path / "trials.parquet"
    pq.write_table(pa.table(list(columns.values()), schema=pa.schema(list(fields.values()), metadata=notes)), path)
    expected = {"trial": float, "state": str}
    if how == "pandas notes":
        assert list(read_table(path, expected)) == ["trial", "state"], "the notes would have made `state` the index"
    else:
        with pytest.raises(SweepError, match="column evil is of type"):
            read_table(path, expected)


def test_a_journal_is_not_unpickled(trace: Path, tmp_path: Path) -> None:
    """Optuna unpickles snapshots of a journal. Its backend for files has none."""
    storage = open_storage(None, RunFolder(tmp_path))
    assert isinstance(storage, JournalStorage)
    assert not isinstance(storage._backend, BaseJournalSnapshot)
    RunFolder(tmp_path).journal_path.write_bytes(pickle.dumps(Bomb(trace)) + b"\n{}\n")
    with pytest.raises(SweepError, match=r"optuna\.journal is damaged.*sweep results"):
        open_storage(None, RunFolder(tmp_path))


def test_weights_from_the_hub_execute_nothing(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a repository has no safetensors file, timm reads a pickle. PyTorch must refuse everything but weights."""
    weights = tmp_path / "pytorch_model.bin"
    torch.save({"head.weight": Bomb(trace)}, weights)
    torch.load(io.BytesIO(weights.read_bytes()), weights_only=False)
    trace.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(backbones.hub, "try_to_load_from_cache", lambda repository, file: str(weights))
    monkeypatch.setattr(backbones.hub, "HUB_FILES", ("pytorch_model.bin",))
    with pytest.raises(SweepError, match="no weights for 'vit_tiny_patch16_224"):
        load_backbone("vit_tiny_patch16_224.augreg_in21k", group_size=3, cache_dir=tmp_path)


def test_a_table_does_not_steer_the_terminal() -> None:
    log = TrialLog(Objectives({"val_top1": "maximize"}))
    log.records.append(TrialRecord(0, {"x": "\x1b[2J"}, [7], 1, failure="\x1b]0;title\x07 [bold]why[/bold]"))
    log.measured(log.records[0], 1, [{"train_loss": 0.5, "val_top1": 0.5, "val_nll": 1.0}], 1.0)
    results = Results(log.trials_table(), log.curves_table(), {}, {"objectives": {"val_top1": "maximize"}})
    output = io.StringIO()
    show_trials(Console(file=output, width=140), results)
    assert "\x1b" not in output.getvalue()
    assert "\x07" not in output.getvalue()
    assert "[bold]why[/bold]" in output.getvalue()
