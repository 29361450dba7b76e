"""Every reader of damaged or hostile files returns a result or raises a `SweepError`, and nothing else.

By default a fast part of the inputs is tested. `pytest -m slow tests/faults/test_fuzz_readers.py` tests all of them,
more than 100,000.
"""

from pathlib import Path

import pytest
from fuzzed_boxes import box_readers
from fuzzed_data import data_readers
from fuzzed_labels import label_readers
from fuzzed_models import model_readers
from fuzzed_records import record_readers
from fuzzed_runs import run_readers
from fuzzed_search import search_readers
from fuzzing import Reader, fuzz

pytestmark = [
    # the command does the same; Pillow warns about damaged metadata
    pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\."),
]

READERS = (
    *("images", "lists", "csv", "parquet", "arrays", "saved", "folders"),
    *("voc", "coco"),
    *("texts", "text_files", "labels", "label_arrays", "enqueued"),
    *("cache", "json", "tables", "weights", "journal"),
    *("requests", "snapshots"),
    *("suites", "retrained", "accuracy", "recorded", "noted", "resumed", "watched"),
    *("kept", "exported", "tokenizers"),
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    searched = search_readers(tmp_path_factory.mktemp("searched"))
    return {
        **data_readers(),
        **box_readers(),
        **label_readers(),
        **run_readers(),
        **searched,
        **record_readers(),
        **model_readers(),
    }


@pytest.mark.parametrize("name", READERS)
def test_undamaged_files_are_read(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    """Undamaged files must be read. Otherwise a reader that always fails would pass."""
    assert readers[name].intact
    for content in readers[name].intact:
        readers[name].read(tmp_path, content)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "requests" else name for name in READERS]
)
def test_a_few_thousand_inputs(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    assert fuzz(readers[name], tmp_path, readers[name].n_fast) >= readers[name].n_fast


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_all_inputs(readers: dict[str, Reader], tmp_path: Path, name: str) -> None:
    n_read = fuzz(readers[name], tmp_path, readers[name].n_full)
    print(f"{name}: {n_read:,} inputs")
    assert n_read >= readers[name].n_full


def test_all_inputs_are_more_than_a_hundred_thousand(readers: dict[str, Reader]) -> None:
    assert set(readers) == set(READERS)
    assert sum(reader.n_full for reader in readers.values()) >= 100_000
