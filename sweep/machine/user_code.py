"""Run a user's Python file, and find the line in it where something failed."""

import hashlib
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType

from sweep.errors import UsageError

_one_at_a_time = threading.RLock()
_executed: set[str] = set()
"""Names of the modules that are a user's file."""

_executing: list[Path] = []
"""The user's files that are running right now, the innermost last."""

_beside: set[str] = set()
"""Names of modules that were imported from beside a user's file."""


def execute(path: Path, *, kind: str) -> ModuleType:
    """Run a Python file as a module.

    As for a script, the modules in its folder can be imported. Those that an earlier file brought along are imported
    anew: they may have been edited since, or another folder may have modules of the same names.

    Args:
        path: The file.
        kind: What the user calls it, such as `"study"`.

    Raises:
        UsageError: The file does not run.
    """
    name = f"sweep_{kind}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be read as a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        with _importing_from(path.parent.resolve()):
            sys.modules[name] = module  # where dataclasses look their annotations up
            _executed.add(name)
            _executing.append(path.resolve())
            try:
                spec.loader.exec_module(module)
            finally:
                _executing.pop()
    except SyntaxError as error:
        where = f"{error.filename or path}, line {error.lineno}" if error.lineno else str(path)
        raise UsageError(f"the {kind} file {path} does not run: {error.msg} ({where})") from error
    except UsageError as error:
        raise UsageError(f"{error} ({_line(error, str(path))})") from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"the {kind} file {path} does not run: {reason} ({_line(error, str(path))})") from error
    return module


def users_modules() -> list[ModuleType]:
    """The user's files that were run, and the modules beside them: no other process can import them by their names."""
    return [sys.modules[name] for name in sorted(_executed | _beside) if name in sys.modules]


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Look for modules in a folder first, and from then on last, for imports inside functions."""
    with _one_at_a_time:
        for name in _beside:
            sys.modules.pop(name, None)
        _beside.clear()
        before = set(sys.modules)
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(str(folder))
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
            _beside.update(name for name in set(sys.modules) - before if _lies_in(sys.modules[name], folder))


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and _is_beside(Path(file), folder)


def _is_beside(file: Path, folder: Path) -> bool:
    """Whether a file lies in a folder or below it, and not in a virtual environment there."""
    return file.is_relative_to(folder) and "site-packages" not in file.parts


def source_digest(function: Callable[..., object], name: str) -> str:
    """The first digits of the SHA-256 of the file that defines a function or a class; without a file, of `name`.

    If the file does not lie beside the user's file that is running, as that of a library does, both files count: the
    user's file decides what it takes from the library, for example by a `functools.partial`.
    """
    defined, running = _file_of(function), _executing[-1] if _executing else None
    files = [] if defined is None else [defined]
    if running is not None and (defined is None or not _is_beside(defined, running.parent)):
        files.append(running)
    source = b"".join(file.read_bytes() for file in files) or name.encode()
    return hashlib.sha256(source).hexdigest()[:12]


def name_of(function: Callable[..., object]) -> str:
    """The name of a function or a class, of what a `functools.partial` calls, or of a callable object's class."""
    called = _called(function)
    return getattr(called, "__name__", type(called).__name__)


def _called(function: Callable[..., object]) -> Callable[..., object]:
    """What is called in the end, under any number of `functools.partial`."""
    while isinstance(function, partial):
        function = function.func
    return function


def _file_of(function: Callable[..., object]) -> Path | None:
    """The file that defines a function, a class, or the class of a callable object; None if there is none."""
    called = _called(function)
    code = getattr(called, "__code__", None)
    if code is not None:
        file = code.co_filename
    else:
        defining = called if isinstance(called, type) else type(called)
        file = getattr(sys.modules.get(defining.__module__), "__file__", None)
    path = Path(file).resolve() if file else None
    return path if path is not None and path.is_file() else None


def _code_of(function: Callable[..., object]) -> CodeType | None:
    """The code of a function, or of a class's `__init__`; None for other callable objects."""
    return getattr(function, "__code__", None) or getattr(function.__init__, "__code__", None)


def line_of(function: Callable[..., object], error: BaseException) -> str:
    """The line of the user's file in which their function failed; the caller has caught `error`."""
    code = _code_of(inspect.unwrap(function))
    frames = traceback.extract_tb(error.__traceback__)
    if code is None:  # a callable object: the first line of code that it reached
        return _line(error, frames[1].filename) if len(frames) > 1 else repr(function)
    if any(frame.filename == code.co_filename for frame in frames):
        return _line(error, code.co_filename)
    return f"{code.co_filename}, line {code.co_firstlineno}"  # the call itself failed, or what it returned is wrong


def _line(error: BaseException, file: str) -> str:
    """Return the last line of `file` that the error passed through; only the file if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else file
