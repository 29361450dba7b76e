"""Measure the peak memory of a row in a process of its own.

python -m sweep.bench.memory '{"row": "sweep", "n_lanes": 4, "sizes": {…}, "shape": {…}}'
"""

import contextlib
import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from sweep.bench.rows import ON_IMAGES, ROWS
from sweep.bench.workload import Shape, Sizes, Workload
from sweep.errors import SweepError

STEPS = 3


def peak_memory_bytes(row: str, n_lanes: int, sizes: Sizes, shape: Shape) -> int:
    """Measure the peak memory of a few training steps: what they add to a process that has imported everything.

    The batch of features or images is included, and so are the backbone's weights if it runs. On a GPU this is
    PyTorch's `max_memory_allocated`, on a CPU the growth of the resident set.

    Raises:
        SweepError: The process ended without a result, as happens when memory runs out.
    """
    request = json.dumps({"row": row, "n_lanes": n_lanes, "sizes": asdict(sizes), "shape": asdict(shape)})
    command = [sys.executable, "-m", "sweep.bench.memory", request]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1]
        raise SweepError(f"the row {row} with {n_lanes} lanes did not finish: {last}")
    return int(done.stdout.split()[-1])


class PeakMemory:
    """Measures the peak memory of this process in laps, above what it held when this object was created.

    On a GPU this is PyTorch's peak; on a CPU it is the resident set, including mapped features. Linux can reset the
    peak. On other systems a lap returns the largest peak so far.

    Args:
        device: The device that does the work.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._before = 0
        self.lap()
        self._before = 0 if device.type == "cuda" else _resident_bytes()

    def lap(self) -> int:
        """Return the peak in bytes since the last lap, and start the next lap."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return peak
        peak = max(0, _resident_bytes() - self._before)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return peak


def _measure(request: str) -> int:
    asked = json.loads(request)
    sizes, shape = Sizes(**asked["sizes"]), Shape(**asked["shape"])
    before = _resident_bytes()
    on_images = asked["row"] in ON_IMAGES
    workload = Workload.of_backbone(sizes) if on_images else Workload.of_random_features(sizes, shape)
    row = ROWS[asked["row"]][1](workload, asked["n_lanes"])
    for _ in range(STEPS):
        row.step()
    if sizes.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(sizes.device)
    return _resident_bytes() - before


def _resident_bytes() -> int:
    """Return the largest resident set so far.

    On Linux a child process inherits `ru_maxrss`, so a small child of a large process would not see its own value.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


if __name__ == "__main__":
    print(_measure(sys.argv[1]))
