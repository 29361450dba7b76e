"""Ctrl-C while `vmap` runs: it arrives as such, and later computations do not notice it."""

import gc
import random
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch import vmap as of_torch
from torch.func import vmap

from sweep.training.interrupts import interruptible


def product(a: Tensor) -> Tensor:
    return a @ a


MAPPED = interruptible(vmap(product))
LANES = torch.eye(3).repeat(2, 1, 1)


@pytest.fixture(autouse=True)
def no_level_is_left() -> Iterator[None]:
    yield
    assert _functorch.maybe_current_level() is None
    assert torch.equal(MAPPED(LANES), LANES)
    torch.randn(1)  # in an open level of vmap it would be refused


def interrupting(function: Callable[..., object], *, first: bool) -> Callable[..., object]:
    """The function with Ctrl-C before or after it, once."""
    left = [KeyboardInterrupt()]

    def interrupted(*args: object) -> object:
        if not first:
            function(*args)
        if left:
            raise left.pop()
        return function(*args)

    return interrupted


@pytest.mark.parametrize("name", ["_vmap_increment_nesting", "_vmap_decrement_nesting"])
@pytest.mark.parametrize("first", [True, False])
def test_where_pytorch_would_hide_it_or_leave_a_level_open(
    monkeypatch: pytest.MonkeyPatch, name: str, first: bool
) -> None:
    monkeypatch.setattr(of_torch, name, interrupting(getattr(of_torch, name), first=first))
    with pytest.raises(KeyboardInterrupt):
        MAPPED(LANES)


@pytest.mark.slow
def test_at_any_instant() -> None:
    """Python drops an interrupt that arrives while it collects garbage, so another one follows."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def computes_for(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        while True:
            MAPPED(LANES)

    draws, before = random.Random(0), signal.signal(signal.SIGALRM, interrupt)
    gc.disable()
    try:
        for _ in range(400):
            with pytest.raises(KeyboardInterrupt):
                computes_for(draws.uniform(2e-4, 1e-3))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()


def test_other_errors_are_those_of_the_function() -> None:
    def fails(a: Tensor) -> Tensor:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong") as raised:
        interruptible(vmap(fails))(LANES)
    assert raised.traceback[-1].name == "fails"
