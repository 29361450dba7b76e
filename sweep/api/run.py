"""Start a run from Python, or open its folder and look at the results.

    import sweep

    run = sweep.run("lr_rank", n_parallel=32, data="./photos")
    run.trials
    model = run.best.load()

The command line calls the same functions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.api.run_handle import Run, load_run
from sweep.errors import SweepError, UsageError
from sweep.machine.paths import default_cache_dir
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.study.budget import Budget, parse_duration
from sweep.study.declaration import Study
from sweep.study.enqueued import read_enqueued
from sweep.study.finding import LoadedStudy, load_study
from sweep.study.fixed import with_options
from sweep.workers.request import asked_for

if TYPE_CHECKING:  # PyTorch and plotly take seconds to import
    from sweep.data import OnBadImage
    from sweep.data.suites import Suite
    from sweep.records.suite_results import SuiteResults


AnyStudy = str | Path | Study | LoadedStudy
DECLARED = tuple(f.name for f in fields(Study))
"""Names of what a study declares; `run` and `run_tasks` take them as arguments."""


def run(
    study: AnyStudy,
    *,
    n_parallel: int | None = 32,
    out: str | Path | None = None,
    time: str | None = None,
    target: float | None = None,
    enqueue: str | Path | Sequence[Mapping[str, Any]] = (),
    storage: str | None = None,
    device: str | None = None,
    workers: int = 0,
    cluster: str | None = None,
    worker_timeout: str | None = None,
    lanes_per_worker: int | None = None,
    on_bad_image: "OnBadImage" = "error",
    reporter: Reporter | None = None,
    **declared: Any,
) -> Run:
    """Train the trials of a study together, and rank them.

    Args:
        study: The name of a study, such as `"lr_rank"`; the path of a Python file; or a `sweep.Study`. A study that is
            loaded already is not executed again.
        n_parallel: How many trials train together in one stack; None for as many as fit in memory.
        out: The run folder to create; `runs/STUDY-TIME` if not given.
        time: End the search after this long: `"90s"`, `"10m"`, `"1h30m"`.
        target: End the search once a trial, after its last epoch, reaches this value of the first objective.
        enqueue: Configurations to try first: one mapping of parameters each, or a CSV file of them.
        storage: The URL of an Optuna storage; a journal file in the run folder if not given.
        device: PyTorch's name of the device. If not given, the GPU if there is one, else the CPU.
        workers: Processes of this machine that the trials train on, one after the other on its GPUs, or each with its
            share of the cores; 0 to train in this process. The tables are the same.
        cluster: The address of a Ray cluster that the trials train on: `"auto"`, `"HOST:PORT"` or `"ray://HOST:PORT"`.
            `workers` is the number of workers there; 0 for as many as it has room for.
        worker_timeout: How long to wait for workers when there is none, before the run ends: `"90s"`, `"10m"`.
        lanes_per_worker: Most lanes that a worker trains at a time; if it has more, one stack trains after the other.
            If not given, as many as fit in the memory that it has measured.
        on_bad_image: What to do with an image that cannot be read: `"error"` stops, `"skip"` leaves it out.
        reporter: Receives the progress. If not given, the progress is shown on standard error.
        **declared: Values that replace what the study declares, such as `data="./photos"`, `trials=64` or `epochs=20`;
            see `sweep.Study`. None keeps the study's own value. They hold for every trial, also where `suggest` chooses
            something else.

    Raises:
        UsageError: The request cannot be carried out as given.
        SweepError: The run failed; the run folder has what was finished.
        KeyboardInterrupt: The run was interrupted; `load_run` opens what was finished.
    """
    loaded, search = _settled(
        study,
        n_parallel=n_parallel,
        time=time,
        target=target,
        enqueue=enqueue,
        storage=storage,
        device=device,
        workers=workers,
        cluster=cluster,
        worker_timeout=worker_timeout,
        lanes_per_worker=lanes_per_worker,
        on_bad_image=on_bad_image,
        **declared,
    )
    if (suite := _suite_of(loaded)) is not None:
        raise UsageError(f"{suite.name} is several tasks; give it to sweep.run_tasks, or to the command sweep run")
    with new_run_folder(loaded.name, out) as folder, _reporting(reporter) as told:
        search(loaded, out=folder, reporter=told)
    return load_run(folder, storage=storage)


def run_tasks(
    study: AnyStudy,
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> "SuiteResults":
    """Run a study on every task of a suite, such as `data="mini-vtab"` or a folder of tasks.

    Each task's winner is trained again on training and validation data together, and tested once. If the folder has a
    stopped run of the same study on the same tasks, that run continues.

    Args:
        study: As in `run`.
        out: The folder to create, with a run folder for each task; `runs/STUDY-TIME` if not given.
        reporter: As in `run`.
        **options: All other arguments of `run` except `storage`, because each task keeps its own journal.

    Raises:
        UsageError: The request cannot be carried out as given, or the data is a single task.
        SweepError: The run failed; the folder has what was finished.
        KeyboardInterrupt: The run was interrupted; the folder has what was finished.
    """
    from sweep.running.suite import run_suite

    given = as_loaded(study)
    loaded, search = _settled(given, **options)
    declared = {name: value for name, value in options.items() if name in DECLARED}
    unfixed = LoadedStudy(given.name, given.path, given.study.override(**declared))
    if (suite := _suite_of(loaded)) is None:
        raise UsageError(f"{loaded.study.data} is a single task; use sweep.run")
    if options.get("storage") is not None:
        raise UsageError(f"--storage is for a single task; {suite.name} keeps a journal in each task's run folder")
    with new_run_folder(loaded.name, out) as folder, _reporting(reporter) as told:
        search = partial(search, reporter=told)
        return run_suite(loaded, unfixed, suite, search, out=folder, cache_dir=default_cache_dir(), reporter=told)


def names_tasks(study: AnyStudy, data: str | None) -> bool:
    """Whether a study runs on several tasks; `data`, if given, replaces the study's own."""
    return _suite_of(overridden_study(study, {"data": data})) is not None


def _suite_of(loaded: LoadedStudy) -> "Suite | None":
    from sweep.data.suites import find_suite

    return find_suite(loaded.study.data, default_cache_dir())


def _settled(
    study: AnyStudy,
    *,
    n_parallel: int | None = 32,
    time: str | None = None,
    target: float | None = None,
    enqueue: str | Path | Sequence[Mapping[str, Any]] = (),
    storage: str | None = None,
    device: str | None = None,
    workers: int = 0,
    cluster: str | None = None,
    worker_timeout: str | None = None,
    lanes_per_worker: int | None = None,
    on_bad_image: "OnBadImage" = "error",
    **declared: Any,
) -> tuple[LoadedStudy, Callable[..., RunFolder]]:
    """Return the study, and `run_study` with all arguments except study, folder and reporter."""
    from sweep.running.runner import run_study

    return overridden_study(study, declared), partial(
        run_study,
        n_parallel=n_parallel,
        storage_url=storage,
        device_name=device,
        workers=asked_for(workers, cluster, worker_timeout, lanes_per_worker),
        cache_dir=default_cache_dir(),
        on_bad_image=on_bad_image,
        budget=Budget(wall_seconds=None if time is None else parse_duration(time), target=target),
        enqueued=read_enqueued(Path(enqueue)) if isinstance(enqueue, str | Path) else enqueue,
    )


@contextmanager
def _reporting(reporter: Reporter | None) -> Iterator[Reporter]:
    """Yield the given reporter, or one that shows the progress on standard error."""
    from sweep.terminal.console import stderr
    from sweep.terminal.progress import reporter_for

    if reporter is not None:
        yield reporter
        return
    with closing(reporter_for(stderr)) as shown:
        yield shown


@contextmanager
def new_run_folder(study_name: str, out: str | Path | None) -> Iterator[Path]:
    """The run folder: the one that the user gives, or a new folder under `runs` with the study's name and the time.

    A new folder under `runs` is made at once, so that no other run that begins in the same second takes it. It is
    removed if it stays empty.

    Args:
        study_name: Name of the study.
        out: The folder that the user gives, if any.
    """
    if out is not None:
        yield Path(out)
        return
    path = Path("runs") / f"{study_name}-{datetime.now():%Y%m%d-%H%M%S}"
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(2))
    folder = next(free for free in chain([path], numbered) if _made(free))
    try:
        yield folder
    finally:
        with suppress(OSError):  # something is in it
            folder.rmdir()


def _made(folder: Path) -> bool:
    """Make a folder, unless it is there."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise SweepError(f"cannot make the run folder {folder}: {error.strerror}; choose another with --out") from error
    return True


def as_loaded(study: AnyStudy) -> LoadedStudy:
    """Load a study by name or file, or take it as it is.

    Args:
        study: As in `run`.

    Raises:
        UsageError: There is no such study.
    """
    if isinstance(study, LoadedStudy):
        return study
    if isinstance(study, Study):
        code = getattr(study.suggest, "__code__", None)
        return LoadedStudy("study", Path(code.co_filename if code else "study"), study)
    return load_study(str(study))


def overridden_study(study: AnyStudy, declared: Mapping[str, Any]) -> LoadedStudy:
    """Load a study by name or file, or take it as it is, and replace some of its declarations for one run.

    Args:
        study: As in `run`.
        declared: The new values by name; None keeps the study's own value.

    Raises:
        UsageError: There is no such study, or a study cannot declare one of the names.
    """
    loaded = as_loaded(study)
    for name in declared:
        if name not in DECLARED:
            raise UsageError(f"sweep.run() has no argument {name!r}, and a study declares {', '.join(DECLARED)}")
    overridden = with_options(loaded.study, declared)
    if declared.get("retrain") is False and overridden.folds:
        raise UsageError(
            "--no-retrain cannot be combined with folds: no lane of the winner has learned from all images, so it is "
            "trained again at the end; leave --no-retrain out"
        )
    return LoadedStudy(loaded.name, loaded.path, overridden)
