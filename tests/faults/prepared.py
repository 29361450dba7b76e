"""What every run needs and takes a second to make. The fork server of `victim.py` imports this module once."""

import os

from numba.core.registry import cpu_target

import backbones.packaged  # noqa: F401
import sweep.running.resume
import sweep.running.timing
import sweep.study.rehearsal
import sweep.training.linear_probe_reference

# As in the tests' own process, see `conftest.py`. A process that is killed loses nothing that it has written.
sweep.running.timing.CALIBRATION_STEPS = 2
sweep.study.rehearsal.SURVEYED = 64
sweep.training.linear_probe_reference.EPOCHS_FACTOR = 1
os.fsync = lambda fd: None

cpu_target.target_context.refresh()  # numba does this before it loads or compiles its first kernel
