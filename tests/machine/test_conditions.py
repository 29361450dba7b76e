"""What the last digits of results depend on, compared with a run's record."""

import importlib.metadata
import platform

import torch

from sweep.machine.conditions import changed_since, in_words, processor_of, versions_of

CPU = torch.device("cpu")


def test_what_is_as_recorded_is_not_named() -> None:
    versions = versions_of(["sweep", "torch", "numba"])
    assert versions["python"] == platform.python_version()
    assert versions["numba"] == importlib.metadata.version("numba")
    config = {"device": "cpu", "processor": processor_of(CPU), "versions": versions}
    assert changed_since(config, CPU) == {}


def test_what_differs_is_named_with_both_values() -> None:
    versions = {**versions_of(["torch"]), "numba": "0.1", "python": "3.0.0", "no-such-package": "1"}
    changed = changed_since({"device": "cuda", "processor": "a calculator", "versions": versions}, CPU)
    assert changed == {
        "device": ("cuda", "cpu"),
        "processor": ("a calculator", processor_of(CPU)),
        "numba": ("0.1", importlib.metadata.version("numba")),
        "python": ("3.0.0", platform.python_version()),
        "no-such-package": ("1", "not installed"),
    }
    assert in_words(changed).startswith(f"device cuda, here cpu, processor a calculator, here {processor_of(CPU)}, ")


def test_what_older_versions_did_not_record_is_not_compared() -> None:
    assert changed_since({"device": "cpu", "versions": versions_of(["torch"])}, CPU) == {}
    assert changed_since({"device": "cpu", "versions": {"": "a damaged record"}}, CPU).keys() == {""}
