"""`docs/notebook.ipynb` runs from start to end in its own kernel. Only its sizes are made smaller."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.fixture
def environment(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(finished_run.parent / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(NOTEBOOK.parents[1]), os.environ.get("PYTHONPATH", "")]))


# warnings of the client about event loops; the notebook itself runs in another process
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_notebook(environment: None, finished_run: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert parameters.source.startswith("options = {")
    images = str(finished_run.parent / "images")
    options = {"data": images, "backbone": "tiny-untrained", "group_size": 2, "trials": 3, "epochs": 2, "n_parallel": 3}
    parameters.source = f"options = {options!r}"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("winner, trial" in data.get("text/html", "") for data in shown)
    assert sum("application/vnd.plotly.v1+json" in data for data in shown) == 3
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert all(cell.get("outputs", []) == [] for cell in nbformat.read(NOTEBOOK, as_version=4).cells), "no output kept"
