"""How much memory a device has left for a stack, and how to recognise that it ran out."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_bytes(device: torch.device) -> int:
    """Return how many bytes can still be allocated.

    On a GPU, this is what the driver reports as free plus what PyTorch has reserved but does not use. On a CPU, it is
    what the system has available, or what a control group (a container or a batch job) leaves, if that is less.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, min([_system_bytes(), *_group_bytes()]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host ran out of memory. On the host, PyTorch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _system_bytes() -> int:
    """Return `MemAvailable` if the kernel reports it, else all physical memory."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_bytes() -> list[int]:
    """Return how many bytes each control group of the process leaves, for the groups that set a limit."""
    return [left for folder, v2 in _groups() if (left := _left_in(folder, v2)) is not None]


def _groups() -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the process's memory groups up to the root, and whether each is of version 2."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                yield group, not controllers


def _left_in(folder: Path, v2: bool) -> int | None:
    """Return the bytes that a group's limit leaves, or None without a limit. Droppable file cache counts as free."""
    limit, used, droppable = (
        ("memory.max", "memory.current", "inactive_file")
        if v2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    try:
        limit_bytes = int((folder / limit).read_text())
        used_bytes = int((folder / used).read_text())
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    return limit_bytes - used_bytes + int(numbers.get(droppable, 0))
