"""Run a user's Python file, and find the line in it where something failed."""

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
        UsageError: The file does not run.
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
    """Return the line where a user's function failed. The caller must be the function that caught `error`."""
    frames = traceback.extract_tb(error.__traceback__)
    if len(frames) > 1:
        return _line(error, frames[1].filename)
    code = getattr(function, "__code__", None)  # the call itself failed
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else repr(function)


def _line(error: BaseException, file: str) -> str:
    """Return the last line of `file` that the error passed through; only the file if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else file
