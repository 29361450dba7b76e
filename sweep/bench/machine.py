"""The machine that measurements are made on, and the versions of the packages that they depend on."""

import importlib.metadata
import os
import platform
from typing import Any

import torch

from sweep.bench.adapters import has_peft


def machine(device: torch.device) -> dict[str, Any]:
    """Describe the machine that the measurements were made on."""
    name = platform.processor() or platform.machine()
    cpuinfo = "/proc/cpuinfo"
    if os.path.exists(cpuinfo):
        with open(cpuinfo, encoding="utf-8") as lines:
            name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that the measurements depend on."""
    packages = ("sweep", "torch", "timm", "numpy", "numba", *(["peft"] if has_peft() else []))
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
