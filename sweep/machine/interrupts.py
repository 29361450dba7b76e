"""Finds Ctrl-C and signals behind the errors that they lead to."""


def interrupt_in(error: BaseException | None) -> BaseException | None:
    """The interrupt that led to an error, or that it is; None if there is none."""
    while isinstance(error, Exception):
        error = error.__context__
    return error
