"""A worker as an actor of a Ray cluster.

This module imports little: the number of threads has to be set before PyTorch is imported.
"""

import os
from contextlib import ExitStack
from typing import Any

VERSIONS = ("sweep", "torch", "numpy", "numba")
"""Packages that must have the same version on all workers, as results may differ in their last bits otherwise."""


class RayWorker:
    """Answers the calls of a run; see `LaneWorker`.

    Args:
        n_threads: Threads to compute with.
        on_gpu: Whether to train on the GPU that Ray has given to this actor.
        marker: A file that lies in the cache folder of the run, if that has features. Who does not see it keeps
            features in the cache folder of its own machine.
    """

    def __init__(self, n_threads: int, on_gpu: bool, marker: str | None):
        os.environ["OMP_NUM_THREADS"] = str(n_threads)

        import torch

        from sweep.machine.paths import default_cache_dir
        from sweep.machine.settings import own_settings
        from sweep.workers.worker import LaneWorker

        torch.set_num_threads(n_threads)
        self._settings = ExitStack()
        self._settings.enter_context(own_settings())
        cache_dir = None if marker is None or os.path.isfile(marker) else default_cache_dir().absolute()
        self._worker = LaneWorker(torch.device("cuda:0" if on_gpu else "cpu"), cache_dir)

    def about(self) -> dict[str, Any]:
        """What this worker computes with; see `about_process`. The first answer, when it is ready.

        `sees_cache` is whether it reads features from the same folder as the run; `cache_dir` is its own one if not.
        """
        cache_dir = self._worker.cache_dir
        own = {"sees_cache": cache_dir is None, "cache_dir": str(cache_dir)}
        return {**about_process(self._worker.device.type), **own}

    def answer(self, call: bytes) -> bytes:
        """See `sweep.workers.serving.answer`."""
        from sweep.workers.serving import answer

        return answer(self._worker, call)


def about_process(device_type: str) -> dict[str, Any]:
    """What results of this process may depend on: versions by package, and the kind of processor.

    Args:
        device_type: `cpu` or `cuda`.
    """
    import socket
    from importlib.metadata import version

    import torch

    from sweep.machine.conditions import processor_of

    return {
        "host": socket.gethostname(),
        "process_id": os.getpid(),
        "versions": {package: version(package).partition("+")[0] for package in VERSIONS},
        "processor": processor_of(torch.device(device_type)),
    }
