"""Resumes a run that was killed, interrupted, or stopped by an error."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from backbones import is_path
from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import RESTORE, read_json, require_entries
from sweep.machine.conditions import changed_since, in_words
from sweep.machine.device import device_named
from sweep.machine.settings import own_settings
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.data_path import data_of_run
from sweep.running.preparation import Prepared, prepare
from sweep.running.record import file_sha256
from sweep.running.recorded import recorded_resize
from sweep.running.runner import carry_out
from sweep.running.trainers import MOST_THREADS, Where, check_workers, threads_of
from sweep.search.optuna_storage import create_optuna_study, mend_journal, require_recorded_url
from sweep.search.samplers import SAMPLERS, sampler_of
from sweep.study import structure
from sweep.study.asking import check_enqueued
from sweep.study.augmentation import OWN_FUNCTION, UNDECLARED
from sweep.study.budget import Budget
from sweep.study.declaration import DATA_OBJECTS, Study
from sweep.study.finding import LoadedStudy, load_study, study_names
from sweep.study.fixed import with_fixed
from sweep.study.going_on import ASKED_AS_NOW, as_in_0_11, going_on
from sweep.study.halving import Halving
from sweep.study.structure import OWN_NETWORK
from sweep.tasks.kinds import recorded_kind
from sweep.workers.cluster import connected
from sweep.workers.request import asked_for

DECIDED_BY_OPTIONS = (
    *("trials", "epochs", "batch_size", "backbone", "image_size", "max_tokens", "data", "group_size", "stages", "pool"),
    *("task", "accept_licence"),
    *("side_network", "attention", "mlp", "read_out", "parts", "head_stages", "head_cells"),
    *("modules_per_block", "precision", "max_rank", "seeds", "folds", "repeats", "seed", "augment", "views", "cache"),
    *("image_root", "path_column", "label_column", "resize", "class_weights", "label_words", "test", "retrain"),
)
"""Declarations that options of `sweep run` can override. A resumed run takes them from its record."""

DECIDED_BY_STUDY = ("baseline", "objectives", "metrics", "halving", "grid")
"""Declarations that only a study's file can change. A resumed run needs them as they were."""


@own_settings()
def resume_run(
    path: Path,
    study: LoadedStudy | None,
    *,
    backbone: str | None = None,
    data: str | None = None,
    storage_url: str | None,
    cache_dir: Path,
    reporter: Reporter,
    n_workers: int | None = None,
    cluster: str | None = None,
    worker_timeout: str | None = None,
    lanes_per_worker: int | None = None,
) -> RunFolder:
    """Finish a run. Its tables will equal those of a run that was never stopped.

    Trials that were in training continue from the last snapshot. No file that a run folder names is executed, so the
    user has to give the file of their own study or backbone again.

    Args:
        path: The run folder.
        study: The study as its file declares it now; not needed for a study that comes with sweep.
        backbone: The run's backbone as `PATH.py:FUNCTION`, if it was the user's own.
        data: Where the data are now, if not where the run's record says.
        storage_url: URL of the Optuna storage, if the run was given one.
        cache_dir: Root of the feature cache.
        reporter: Receives progress events.
        n_workers: Workers that the lanes train on; 0 for none. If not given, as many processes of this machine as
            before; on a cluster, as many as it has room for.
        cluster: Address of a Ray cluster to train on. None is connected to only because a run folder names it.
        worker_timeout: How long to wait when there is no worker, such as `10m`.
        lanes_per_worker: Most lanes of a shape that a worker trains at a time; None for as many as fit in its memory.

    Returns:
        The run folder. If the run had ended, nothing in it changes.

    Raises:
        UsageError: The folder is not a run folder, another process works on it, or the study, its data or its backbone
            has changed.
        SweepError: The folder is damaged, or the run failed again.
        KeyboardInterrupt: The user stopped the run again.
    """
    folder = RunFolder.open(path)
    with folder.locked():
        if folder.summary_path.is_file():
            reporter.message(f"the run in {folder.path} has ended; nothing is left to do")
            return folder
        loaded, config = as_recorded(folder, study, backbone=backbone, data=data, reporter=reporter)
        require_recorded_url(folder, storage_url, f"sweep resume {path}")
        mend_journal(folder)
        optuna_study = create_optuna_study(
            storage_url,
            folder,
            objectives=loaded.study.ranking,
            sampler=sampler_of(loaded.study),
            goes_on=True,
        )
        loaded = replace(loaded, study=going_on(loaded.study, optuna_study.get_trials(deepcopy=False)))
        check_enqueued(loaded.study, config["enqueued"])
        prepared = prepare(
            loaded.study,
            n_parallel=None if config["n_parallel"] == "auto" else config["n_parallel"],
            device=device_named(config["device"]),
            cache_dir=cache_dir,
            on_bad_image=config["on_bad_image"],
        )
        _check_same_inputs(prepared, folder, config)
        if changed := changed_since(config, prepared.device):
            reporter.message(
                f"note: the run began with {in_words(changed)}. The last digits of the results may differ from those "
                f"of a run that was never stopped"
            )
        budget = Budget(wall_seconds=config["budget"]["wall_seconds"], target=config["budget"]["target"])
        if n_workers is None and cluster is None and config["cluster"] is not None:
            reporter.message(
                "note: the run began on a cluster; it goes on in this process. Name the cluster with --cluster"
            )
        as_before = config["workers"] if cluster is None else 0
        number = as_before if n_workers is None else n_workers
        workers = asked_for(number, cluster, worker_timeout, lanes_per_worker)
        check_workers(workers, prepared)
        with connected(workers, on_gpus=prepared.device.type == "cuda") as found:
            return carry_out(
                loaded,
                prepared,
                folder,
                optuna_study,
                storage_url,
                cache_dir,
                budget,
                config["enqueued"],
                reporter,
                Where(workers, found, config["threads"] or threads_of(workers, found)),
            )


def as_recorded(
    folder: RunFolder,
    study: LoadedStudy | None,
    *,
    backbone: str | None = None,
    data: str | None = None,
    reporter: Reporter,
) -> tuple[LoadedStudy, dict[str, Any]]:
    """The study of a run with the declarations that it had when the run began, and the run's record.

    Args:
        folder: The run folder.
        study: As in `resume_run`, like the arguments below.
        backbone: The backbone, if it was the user's own.
        data: Where the data are now.
        reporter: Told if the study's file has changed since.

    Raises:
        UsageError: The study, its data or its backbone has to be given, or the study declares something else now.
        SweepError: The record is damaged.
    """
    config = _read_config(folder)
    study = study or _packaged(folder, config)
    config["backbone"] = _backbone_to_run(folder, config, backbone or study.study.backbone)
    if config["data"] != DATA_OBJECTS:
        config["data"] = data_of_run(config, data)
    return _as_recorded(study, folder, config, reporter), config


def _read_config(folder: RunFolder) -> dict[str, Any]:
    earlier: dict[str, Any] = {"workers": 0, "threads": None, "cluster": None}  # versions up to 0.4 recorded none
    earlier |= {"fixed": [], **dict.fromkeys(ASKED_AS_NOW, False)}  # nor did versions up to 0.10 and 0.11.2
    config = {**UNDECLARED, **structure.UNDECLARED, **earlier, **read_json(folder.config_path)}
    entries: dict[str, Any] = {
        **dict.fromkeys(("study", "backbone", "backbone_fingerprint", "data"), str),
        **dict.fromkeys(("sampler", "device", "on_bad_image"), str),
        **dict.fromkeys(("splits.train", "splits.val", "splits.test"), dict),
        **dict.fromkeys(("budget.wall_seconds", "budget.target"), float | int | None),
        "n_parallel": int | str,
        "workers": int,
        "threads": int | None,
        "cluster": str | None,
        "enqueued": list,
        "fixed": list,
        **dict.fromkeys(("transform", "versions"), dict),
    }
    require_entries(folder.config_path, config, entries)
    items = all(isinstance(params, dict) for params in config["enqueued"])
    items &= all(isinstance(name, str) for name in config["fixed"])
    asked = all(isinstance(config[name], bool) for name in ASKED_AS_NOW)
    lanes = isinstance(config["n_parallel"], int) or config["n_parallel"] == "auto"
    counts = config["workers"] >= 0 and 0 < (config["threads"] or 1) <= MOST_THREADS
    if config["on_bad_image"] not in ("error", "skip") or not (items and asked and lanes and counts):
        raise SweepError(f"{folder.config_path} is damaged{RESTORE}")
    return config


def _packaged(folder: RunFolder, config: dict[str, Any]) -> LoadedStudy:
    """The study of the recorded name that comes with sweep, if the run used that one, with the run's own rungs.

    A later version may compare trials at other epochs.
    """
    name = config["study"]
    if name in study_names():
        loaded = load_study(name)
        if str(loaded.path) == config.get("study_file") or file_sha256(loaded.path) == config.get("study_sha256"):
            return replace(loaded, study=replace(loaded.study, halving=_recorded_halving(folder, config)))
    raise UsageError(
        f"{folder.path} ran the study file {config.get('study_file')}. Run folders may come from anybody, so a study "
        f"file is executed only if you give it: sweep resume {folder.path} --study FILE"
    )


def _recorded_halving(folder: RunFolder, config: dict[str, Any]) -> Halving | None:
    recorded = config.get("halving")
    try:
        return None if recorded is None else Halving(**recorded)
    except (TypeError, UsageError) as error:
        raise SweepError(f"{folder.config_path} is damaged{RESTORE}") from error


def _backbone_to_run(folder: RunFolder, config: dict[str, Any], given: str) -> str:
    """The recorded backbone. If it is a file, the user has to give it; errors as `resume_run`."""
    recorded: str = config["backbone"]
    if not is_path(recorded):
        return recorded
    if not is_path(given):
        raise UsageError(
            f"{folder.path} ran with the backbone {config['backbone']}. Run folders may come from anybody, so a file "
            f"is executed only if you give it: sweep resume {folder.path} --backbone {recorded}"
        )
    return given


def _as_recorded(loaded: LoadedStudy, folder: RunFolder, config: dict[str, Any], reporter: Reporter) -> LoadedStudy:
    """The study with the declarations that it had when the run began.

    Raises:
        UsageError: Its file declares something else now.
    """
    overrides = {name: config.get(name) for name in DECIDED_BY_OPTIONS}
    if overrides["data"] == DATA_OBJECTS:
        overrides["data"] = None  # the study's own, if its file is given
    if overrides["augment"] == OWN_FUNCTION:
        overrides["augment"] = None  # likewise
        if isinstance(loaded.study.augment, str):
            raise _changed(loaded, folder, "augment", loaded.study.augment, OWN_FUNCTION)
    if overrides["side_network"] == OWN_NETWORK:
        overrides["side_network"] = None  # likewise
        if isinstance(loaded.study.side_network, str):
            raise _changed(loaded, folder, "side_network", loaded.study.side_network, OWN_NETWORK)
    overrides["resize"] = recorded_resize(config)
    if config["sampler"] in SAMPLERS:
        overrides["sampler"] = config["sampler"]
    overrides["rank_buckets"] = config.get("rank_buckets") or [config["max_rank"]]
    asked = loaded.study if config["fixed_numbers"] else as_in_0_11(loaded.study)
    study: Study = with_fixed(asked.override(**overrides), config["fixed"], among_names=config["fixed_names"])
    study = study.on(recorded_kind(config))
    declared = json.loads(json.dumps(study.declarations()))
    for name in (*DECIDED_BY_STUDY, "sampler", "augment", "views"):
        if declared[name] != config.get(name):
            raise _changed(loaded, folder, name, declared[name], config.get(name))
    if file_sha256(loaded.path) != config.get("study_sha256"):
        reporter.message(f"note: {loaded.path} has changed since the run began; its suggest may differ")
    return LoadedStudy(loaded.name, loaded.path, study)


def _changed(loaded: LoadedStudy, folder: RunFolder, name: str, declared: object, recorded: object) -> UsageError:
    return UsageError(
        f"{loaded.path} declares {name} = {declared!r}, but {folder.path} began with {recorded!r}; "
        f"undo the change, or start a new run"
    )


def _check_same_inputs(prepared: Prepared, folder: RunFolder, config: dict[str, Any]) -> None:
    """Raise an error if the images or the weights are not those that the run began with."""
    data = prepared.data
    for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        if split.fingerprint != config["splits"][name].get("fingerprint"):
            raise UsageError(
                f"the {name} {data.kind} of {data.name} are not those that {folder.path} began with; "
                f"put them back, or start a new run"
            )
    if prepared.views.fingerprint != config.get("augment_fingerprint"):
        raise UsageError(
            f"the augmentation makes other images of {data.name} than when {folder.path} began; undo the change of the "
            f"study file or of the versions of torchvision and Pillow, or start a new run"
        )
    if prepared.backbone.fingerprint != config["backbone_fingerprint"]:
        raise UsageError(
            f"the weights of {prepared.backbone.name} are not those that {folder.path} began with; "
            f"put them back, or start a new run"
        )
