"""What every run needs and takes a second to make. The fork server of `victim.py` imports this module once."""

import os

from numba.core.registry import cpu_target

import backbones.packaged  # noqa: F401
import sweep.running.resume
import sweep.running.timing

# As in the tests' own process, see `conftest.py`. A process that is killed loses nothing that it has written.
sweep.running.timing.CALIBRATION_STEPS = 2
os.fsync = lambda fd: None

cpu_target.target_context.refresh()  # numba does this before it loads or compiles its first kernel
