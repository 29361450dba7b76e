"""Successive halving as a study declares it: the epochs at which trials are compared, and how many go on."""

from dataclasses import dataclass
from itertools import pairwise

from sweep.errors import UsageError
from sweep.study.stored_values import plain


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving (Jamieson & Talwalkar 2016): weak trials are stopped at rungs.

    Attributes:
        eta: At each rung, the best `1/eta` of the trials go on.
        first_rung: Epochs after which trials are first compared. Each further rung is at `eta` times as many epochs.
        top_rung: Largest number of epochs that a rung may have; if not given, there are rungs up to the last epoch
            but one.

    Raises:
        UsageError: A value is out of its range.
    """

    eta: int = 3
    first_rung: int = 1
    top_rung: int | None = None

    def __post_init__(self) -> None:
        for name in ("eta", "first_rung", "top_rung"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        top = self.first_rung if self.top_rung is None else self.top_rung
        for name, value, least in (("eta", self.eta, 2), ("first_rung", self.first_rung, 1), ("top_rung", top, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"Halving.{name} must be a whole number of at least {least}, not {value!r}")
        if top < self.first_rung:
            raise UsageError(f"Halving.top_rung {top} lies below first_rung {self.first_rung}")

    def rungs(self, n_epochs: int) -> list[int]:
        """The epochs at which trials of `n_epochs` epochs are compared."""
        top = n_epochs - 1 if self.top_rung is None else min(self.top_rung, n_epochs - 1)
        rungs, rung = [], self.first_rung
        while rung <= top:
            rungs.append(rung)
            rung *= self.eta
        return rungs

    def beyond(self, n_epochs: int) -> str:
        """What is said of rungs that no trial reaches before its end; empty if there are none."""
        rungs = self.rungs(n_epochs)
        if not rungs:
            return (
                f"the study's first rung is at epoch {self.first_rung}, and a trial has {n_epochs}, so no trial is "
                f"stopped early; raise --epochs, or lower first_rung in the study file"
            )
        if self.top_rung is not None and self.top_rung >= n_epochs:
            return (
                f"the study's top_rung is {self.top_rung}, and a trial has {n_epochs} epochs, so the last rung is at "
                f"epoch {rungs[-1]}"
            )
        return ""

    def expected_epochs(self, n_epochs: int) -> float:
        """Average number of epochs of a trial, if one in `eta` trials passes each rung."""
        bounds = [0, *self.rungs(n_epochs), n_epochs]
        expected = 0.0
        for passed, (start, end) in enumerate(pairwise(bounds)):
            expected += (end - start) / float(self.eta**passed)
        return expected
