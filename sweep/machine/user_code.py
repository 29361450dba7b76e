"""A user's Python file, executed, and where in it something failed."""

import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from sweep.errors import UsageError


def execute(path: Path, *, kind: str) -> ModuleType:
    """Run a Python file as a module.

    Args:
        path: The file.
        kind: What the user calls it, such as `"study"`.

    Raises:
        UsageError: It does not run.
    """
    spec = importlib.util.spec_from_file_location(f"sweep_{kind}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename or path}, line {error.lineno}" if error.lineno else str(path)
        raise UsageError(f"the {kind} file {path} does not run: {error.msg} ({where})") from error
    except UsageError as error:
        raise UsageError(f"{error} ({_line(error, str(path))})") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"the {kind} file {path} does not run: {reason} ({_line(error, str(path))})") from error
    return module


def line_of(function: Callable[..., object], error: BaseException) -> str:
    """Where in the user's file a function of theirs failed, called by the function that caught `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    if len(frames) > 1:
        return _line(error, frames[1].filename)
    code = getattr(function, "__code__", None)  # the call itself failed
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)


def _line(error: BaseException, file: str) -> str:
    """The last line of `file` that the error passed through, as a user would look for it; the file, if it has none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else file
