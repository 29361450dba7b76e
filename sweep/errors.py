"""Errors a user can cause: one message that names the value, the place and the remedy, and an exit code."""


class SweepError(Exception):
    """A failure with a message made for the user; the CLI prints it without a stack trace."""

    exit_code = 1


class UsageError(SweepError):
    """A request that cannot be carried out as given: unknown name, value out of range, wrong declaration."""

    exit_code = 2
