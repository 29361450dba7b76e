"""What the last digits of results depend on: the device, the kind of processor, and the versions of packages."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from typing import Any

import torch

NOT_INSTALLED = "not installed"


def processor_of(device: torch.device) -> str:
    """The kind of processor or GPU that a device is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    import llvmlite.binding

    return f"{llvmlite.binding.get_host_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of these packages, by name."""
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


def changed_since(config: Mapping[str, Any], device: torch.device) -> dict[str, tuple[str, str]]:
    """Return what differs from when a run began, by name: what the run had, and what there is now.

    Args:
        config: The run's record. Versions up to 0.10 recorded neither the processor nor the version of numba; what is
            not recorded is not compared.
        device: The device to compute on.
    """
    there = {"device": config["device"], "processor": config.get("processor"), **config["versions"]}
    here = versions_of(name for name in config["versions"] if name != "python")
    here |= {"device": str(device), "processor": processor_of(device)}
    recorded = {name: str(value) for name, value in there.items() if value is not None}
    return {name: (value, here[name]) for name, value in recorded.items() if value != here[name]}


def in_words(changed: Mapping[str, tuple[str, str]]) -> str:
    """Say what differs, such as `torch 2.9.0, here 2.10.0`."""
    return ", ".join(f"{name} {there}, here {here}" for name, (there, here) in changed.items())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):  # a record may name anything
        return NOT_INSTALLED
