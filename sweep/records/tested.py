"""Whether a run looked at its test set, and with which weights."""

from collections.abc import Mapping
from typing import Any

AGAIN = "trained again on train and val"


def was_tested(summary: Mapping[str, Any]) -> bool:
    """Whether winner and linear probe were evaluated on test; runs of before version 0.5 always did when they ended."""
    return bool(summary) and summary.get("tested", True) is not False


def was_retrained(summary: Mapping[str, Any]) -> bool:
    """Whether the run ended by training winner and probe again, so that what it says of test is of these."""
    return summary.get("retrained", False) is True


def said_of_test(summary: Mapping[str, Any]) -> str:
    """How the test set was used, in a sentence.

    Args:
        summary: Summary of the run; empty if it has not ended.
    """
    if not summary:
        return "The run did not end: test was not looked at."
    if not was_tested(summary):
        return "The run was told not to look at test (--no-test)."
    if was_retrained(summary):
        return f"Only the winner and the linear probe were measured on test, once, after they were {AGAIN}."
    return "Only the winner and the linear probe were measured on test, once."
