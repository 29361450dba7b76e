"""How a worker carries out a call."""

import traceback
from typing import Any

from sweep.errors import SweepError
from sweep.workers.messages import WorkerFailure
from sweep.workers.packing import packed, unpacked
from sweep.workers.worker import LaneWorker


def answer(worker: LaneWorker, call: bytes) -> bytes:
    """Do what a call asks for.

    Args:
        worker: Who is called.
        call: The name of a method and its arguments, packed.

    Returns:
        What the method returned, packed; or a `WorkerFailure` with what it raised.
    """
    try:
        method, arguments = unpacked(call, worker.cache_dir)
        result: Any = getattr(worker, method)(*arguments)
    except Exception as error:
        explained = error if isinstance(error, SweepError) else None
        result = WorkerFailure(explained, "".join(traceback.format_exception(error)))
    return packed(result)
