"""Lets Ctrl-C and signals interrupt `vmap` without traces.

`vmap` opens a level of PyTorch's stack of transforms and closes it again, in Python. An interrupt can arrive in
between. PyTorch then raises an internal error in place of the interrupt, or leaves the level open, so that later random
numbers of the process are refused.
"""

import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch._C import _functorch

from sweep.machine.interrupts import interrupt_in

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def interruptible(mapped: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that `vmap` made, such that an interrupt ends it as an interrupt and leaves no level open.

    Raises:
        BaseException: As the function, but an interrupt instead of the errors that it led to.
    """

    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = _n_levels()
        try:
            return mapped(*args, **kwargs)
        except BaseException as error:
            interrupt = interrupt_in(error)
            if interrupt is None:
                raise
            # A generator that was interrupted closes its level when the last frame that refers to it is cleared.
            cause: BaseException | None = error
            while cause is not None:
                traceback.clear_frames(cause.__traceback__)
                cause = cause.__context__
            while _n_levels() > before:
                _functorch._vmap_decrement_nesting()
            raise interrupt from None

    return run


def _n_levels() -> int:
    """Number of levels that are open in this thread."""
    return _functorch.maybe_current_level() or 0
