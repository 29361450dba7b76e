"""Finds a study by its name or by the path of its file."""

import difflib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path

from sweep.errors import UsageError
from sweep.machine.user_code import execute
from sweep.study.declaration import Study


@dataclass(frozen=True)
class LoadedStudy:
    """A study and the file that it came from.

    Attributes:
        name: The file's name without `.py`.
        path: The file.
        study: The study that the file declares.
    """

    name: str
    path: Path
    study: Study = field(repr=False)


def study_names() -> list[str]:
    """Names of the studies that come with sweep."""
    import studies

    return sorted(module.name for module in pkgutil.iter_modules(studies.__path__))


def load_study(spec: str) -> LoadedStudy:
    """Find a study.

    Args:
        spec: A name in the `studies` package, or the path of a Python file that assigns a `Study` to `study`.

    Raises:
        UsageError: There is no such study, its file raises an error, or its declarations are wrong.
    """
    path = _study_path(spec)
    module = execute(path, kind="study")
    study = getattr(module, "study", None)
    if not isinstance(study, Study):
        raise UsageError(f"{path} must assign a sweep.Study to the name `study`; it has {study!r}")
    return LoadedStudy(path.stem, path, study)


def _study_path(spec: str) -> Path:
    names = study_names()
    if spec in names:
        import studies

        return Path(next(iter(studies.__path__))) / f"{spec}.py"
    path = Path(spec).expanduser()
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    close = difflib.get_close_matches(spec, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UsageError(
        f"no study {spec!r}{hint}: it is none of {', '.join(names)}, and no Python file has that path.\n"
        f"Give one of those names, or a path such as ./mine.py"
    )
