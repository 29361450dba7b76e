"""What the accuracy suite compares: the tasks, the methods that fit them, and the studies that tune these methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from studies import mini_vtab, side_networks
from sweep.bench.accuracy_results import FAMILIES, FAMILY_STUDY, LAST, LORA, PROBE, VARIANTS, AccuracySizes
from sweep.bench.lora import why_not_lora
from sweep.data import load_data
from sweep.data.suites import PACKAGED_SUITES, Task, find_suite
from sweep.errors import UsageError
from sweep.running.preparation import Prepared, prepare
from sweep.side_networks.checks import check_family
from sweep.study.finding import LoadedStudy, load_study
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import CLASSES

METHODS = (LAST, *FAMILIES, LORA)
"""What `--methods` takes. The linear probe is measured with LAST, on the same features."""

EVEN_STAGES = {"images": 4, "texts": 3}
"""How many stages are read, spread evenly, of texts and of backbones that the studies do not name blocks of."""


@dataclass(frozen=True)
class Tasks:
    """The tasks on which methods are compared.

    Attributes:
        tasks: One or several.
        missing: Tasks that are not here, each with the reason.
        kind: What all of them are, images or texts.
    """

    tasks: tuple[Task, ...]
    missing: Mapping[str, str]
    kind: Kind


def find_tasks(spec: str, accept_licence: str | None, cache_dir: Path) -> Tasks:
    """Find and load the data, to see whether methods can be compared on them.

    Args:
        spec: A single task or several, as `--data` takes them.
        accept_licence: As for `load_data`.
        cache_dir: Root of sweep's cache.

    Raises:
        UsageError: There are no such data, their licence has not been accepted, an image of theirs may have several
            labels, masks, boxes or numbers, or some are images and others texts.
        SweepError: They cannot be fetched or read.
    """
    suite = find_suite(spec, cache_dir)
    if suite is not None and spec in PACKAGED_SUITES:
        return Tasks(suite.tasks, suite.missing, "images")
    missing: Mapping[str, str] = {}
    if suite is None:
        loaded = {spec: load_data(spec, seed=0, cache_dir=cache_dir, accept_licence=accept_licence)}
        name = loaded[spec].name
        tasks: tuple[Task, ...] = (Task(name, name, spec),)
    else:
        tasks, missing = suite.tasks, suite.missing
        loaded = {
            task.data: load_data(task.data, seed=0, cache_dir=cache_dir, accept_licence=accept_licence)
            for task in tasks
        }
    for where, data in loaded.items():
        if data.task != CLASSES.name:
            raise UsageError(
                f"--suite accuracy compares top-1 of tasks with one class for each item, and {where} is for "
                f"{data.task}; give other --data. `sweep run` compares a side-network with a tuned probe on it"
            )
    kinds: list[Kind] = sorted({data.kind for data in loaded.values()})
    if len(kinds) != 1:
        raise UsageError(f"{spec} has {' and '.join(kinds)} tasks; give --data of images alone, or of texts")
    return Tasks(tasks, missing, kinds[0])


def methods_asked_for(methods: str | None) -> tuple[str, ...] | None:
    """Parse `--methods`, names with commas between them; None if it is not given.

    Raises:
        UsageError: A name is unknown, or that of the probe, or there is none.
    """
    if methods is None:
        return None
    names = [part.strip() for part in methods.split(",") if part.strip()]
    for name in names:
        if name in (PROBE, "probe"):
            raise UsageError(f"--methods has {name!r}, but the linear probe is measured with {LAST}; give that")
        if name not in METHODS:
            raise UsageError(f"--methods has {name!r}; give some of these: {', '.join(METHODS)}")
    if not names:
        raise UsageError(f"--methods names no method; give some of these: {', '.join(METHODS)}")
    return tuple(method for method in METHODS if method in names)


def fitting_methods(
    found: Tasks, sizes: AccuracySizes, asked: Sequence[str] | None, cache_dir: Path
) -> tuple[list[tuple[Task, str]], dict[str, str]]:
    """Decide what is measured: all methods that were asked for; if none were, all that fit the data and the backbone.

    Args:
        found: The tasks.
        sizes: The sizes of the benchmark.
        asked: What the user asked for, of `METHODS`.
        cache_dir: Root of sweep's cache.

    Returns:
        Tasks and methods in the order in which they are measured, and the reasons why methods are left out.

    Raises:
        UsageError: The backbone does not read such data, or a method that was asked for does not fit.
        SweepError: The weights cannot be loaded.
    """
    loaded = study_of(found.tasks[0], sizes, LAST)
    prepared = prepare(loaded.study, n_parallel=None, device=torch.device("cpu"), cache_dir=cache_dir)
    of_lora = _lora_tasks(found, sizes)
    jobs: list[tuple[Task, str]] = []
    left_out: dict[str, str] = {}
    for method in asked or METHODS:
        reason = _why_not(method, prepared)
        if method == LORA and not of_lora:
            reason = f"of several tasks on a CPU, it is measured on {', '.join(sizes.lora_tasks)}, and none is here"
        if reason is None:
            jobs += [(task, method) for task in (of_lora if method == LORA else found.tasks)]
        elif asked:
            raise UsageError(f"{method} cannot be compared here: {reason}. Leave it out of --methods")
        else:
            left_out[method] = reason
    return jobs, left_out


def _lora_tasks(found: Tasks, sizes: AccuracySizes) -> list[Task]:
    """The tasks on which LoRA is measured, since it takes long."""
    on_gpu = torch.device(sizes.device).type == "cuda"
    if on_gpu or len(found.tasks) == 1:
        return list(found.tasks)
    return [task for name in sizes.lora_tasks for task in found.tasks if task.name == name]


def _why_not(method: str, prepared: Prepared) -> str | None:
    """Why a method does not fit the data and the backbone of the study of LAST; None if it does."""
    texts = prepared.data.kind == "texts"
    if method == LORA:
        return why_not_lora(prepared.backbone)
    if texts and method in VARIANTS:
        return "its search was made for images"
    try:
        check_family(replace(prepared.spec, family=method), prepared.backbone.name, texts=texts)
    except UsageError as error:
        return str(error)
    return None


def study_of(task: Task, sizes: AccuracySizes, family: str) -> LoadedStudy:
    """The study that tunes a family, on a task: LAST has one of its own, with a search space made for it."""
    loaded, texts = load_study(sizes.study), sizes.kind == "texts"
    own_backbone = loaded.study.backbone
    backbone = sizes.backbone or own_backbone
    trials, epochs = sizes.n_configs, sizes.epochs
    if family in VARIANTS:
        loaded = replace(loaded, study=mini_vtab.of_variant(family))
    elif family != LAST:
        trials, epochs = sizes.n_family_configs, sizes.family_epochs
        own = side_networks.of_family(family, texts=texts, epochs=epochs)
        loaded = replace(load_study(FAMILY_STUDY), study=own)
    else:
        loaded = replace(loaded, study=replace(loaded.study, halving=None))
    study = replace(loaded.study, image_size=sizes.image_size).override(
        data=task.data,
        backbone=backbone,
        stages=EVEN_STAGES[sizes.kind] if texts or backbone != own_backbone else None,
        accept_licence=sizes.accept_licence,
        trials=trials,
        seeds=sizes.n_seeds,
        epochs=epochs,
    )
    return replace(loaded, study=study)
