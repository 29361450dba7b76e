"""Runs a study: data, features, search, linear-probe reference, and one evaluation on the test set."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna

from sweep.data import OnBadImage
from sweep.errors import SweepError
from sweep.machine.checked_files import read_json, require_entries
from sweep.machine.device import device_named
from sweep.machine.settings import own_settings
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.announcing import announce, announce_features, taken_up
from sweep.running.ending import WallSeconds, end_run
from sweep.running.no_winner import no_winner
from sweep.running.planner import plan_features, plan_study
from sweep.running.preparation import Prepared, prepare
from sweep.running.record import run_config, run_summary
from sweep.running.settings import ShapeSettings, same_source
from sweep.running.shape_plan import ShapePlanner
from sweep.running.snapshot_files import SnapshotFiles
from sweep.running.trainers import Where, check_workers, fill_of, lanes_of, pool_of, threads_of, trainer_of
from sweep.search.data_base import first_reason, is_storage_error
from sweep.search.occupancy import Occupancy
from sweep.search.optuna_storage import check_storage_free, create_optuna_study
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox
from sweep.search.samplers import AskTellSampler, sampler_of
from sweep.search.search import Search, Winner
from sweep.search.snapshot import capture, restore
from sweep.search.storage_url import shown_url
from sweep.side_networks.cpu.compile import compiling_seconds
from sweep.study.asking import check_enqueued
from sweep.study.attainable import require_attainable
from sweep.study.budget import Budget, whole_seconds
from sweep.study.enqueued import settled
from sweep.study.finding import LoadedStudy
from sweep.workers.cluster import connected
from sweep.workers.request import NO_WORKERS, WorkersAsked


@own_settings()
def run_study(
    loaded: LoadedStudy,
    *,
    n_parallel: int | None,
    out: Path,
    storage_url: str | None,
    device_name: str | None,
    cache_dir: Path,
    reporter: Reporter,
    on_bad_image: OnBadImage = "error",
    budget: Budget | None = None,
    enqueued: Sequence[Mapping[str, Any]] = (),
    workers: WorkersAsked = NO_WORKERS,
) -> RunFolder:
    """Run a study and write its results to a folder.

    Trials are trained on the training set and compared on the validation set. The test set is used once, to evaluate
    the winner and the tuned linear probe.

    Args:
        loaded: The study, with the declarations that the user overrode.
        n_parallel: Lanes to train at a time; None for as many as fit in memory, at most one per trial and replicate.
        out: Run folder to make.
        storage_url: URL of an Optuna storage; if not given, a journal file in the run folder.
        device_name: Device as PyTorch names it; if not given, the GPU if there is one, else the CPU.
        cache_dir: Root of the feature cache.
        reporter: Receives progress events.
        on_bad_image: What to do with an image file that cannot be read: stop, or leave it out and record it.
        budget: Ends the search before all trials are trained; if not given, there is no limit.
        enqueued: Parameters of trials to train after the baseline and those that the study declares. The sampler
            chooses the parameters that are missing.
        workers: The workers that the lanes are to train on, if not in this process.

    Returns:
        The run folder.

    Raises:
        UsageError: The request cannot be carried out as given.
        SweepError: Something failed on the way; `resume_run` can continue from the run folder.
        KeyboardInterrupt: The user stopped the run; `resume_run` can continue from the run folder.
    """
    study, budget = loaded.study, budget or Budget()
    RunFolder.check_free(out)
    sampler = sampler_of(study)
    if storage_url is not None:
        check_storage_free(storage_url, out.resolve().name)
    device = device_named(device_name)
    prepared = prepare(study, n_parallel=n_parallel, device=device, cache_dir=cache_dir, on_bad_image=on_bad_image)
    check_workers(workers, prepared)
    require_attainable(budget, prepared.study.ranking)
    enqueued = settled(prepared.study, [*prepared.study.enqueue, *enqueued])
    check_enqueued(prepared.study, enqueued)
    loaded = replace(loaded, study=prepared.study)
    with connected(workers, on_gpus=device.type == "cuda") as cluster, (folder := RunFolder.create(out)).locked():
        RunFolder.check_free(out)
        where = Where(workers, cluster, threads_of(workers, cluster))
        config = run_config(loaded, prepared, folder, storage_url, budget, enqueued)
        folder.write_json(
            folder.config_path,
            {
                **config,
                "workers": 0 if cluster else workers.number,
                "cluster": workers.cluster,
                "threads": where.n_threads,
            },
        )
        return carry_out(
            loaded,
            prepared,
            folder,
            create_optuna_study(storage_url, folder, objectives=prepared.study.ranking, sampler=sampler),
            storage_url,
            cache_dir,
            budget,
            enqueued,
            reporter,
            where,
        )


def carry_out(
    loaded: LoadedStudy,
    prepared: Prepared,
    folder: RunFolder,
    optuna_study: optuna.Study,
    storage_url: str | None,
    cache_dir: Path,
    budget: Budget,
    enqueued: Sequence[Mapping[str, Any]],
    reporter: Reporter,
    where: Where,
) -> RunFolder:
    """Run or resume a study from the state of its run folder and storage; errors as `run_study`.

    Args:
        loaded: The study.
        prepared: Its data and backbone.
        folder: The run folder, which has the configuration. The caller must hold its lock.
        optuna_study: Optuna's study, with the sampler of the study.
        storage_url: URL of its storage, for messages; if not given, the run folder's journal.
        cache_dir: Root of the feature cache.
        budget: Ends the search before all trials are trained.
        enqueued: Parameters of trials to train after the baseline.
        reporter: Receives progress events.
        where: Where the lanes train.
    """
    started, study, seconds = time.perf_counter(), loaded.study, WallSeconds()
    device, sampler = prepared.device, cast("AskTellSampler", optuna_study.sampler)
    reporter.run_opened(folder, storage_url)
    announce(prepared, folder, reporter)

    feature_plan = plan_features(prepared, cache_dir)
    if feature_plan.n_images_missing:
        reporter.message(
            f"features: {feature_plan.n_images_missing} of {feature_plan.n_images} {prepared.data.kind} are to be "
            f"computed; the cache will take {feature_plan.cache_bytes / 2**20:,.0f} MiB for all of them"
        )
    with pool_of(device, cache_dir, reporter, where) as pool:
        fill = fill_of(pool, reporter, where)
        settings = ShapeSettings(prepared, cache_dir, reporter, partial(_record_source, folder), fill)
        settings.compute(prepared.shape)
        announce_features(settings, prepared, reporter)

        plan = ShapePlanner(settings, plan_study(feature_plan, prepared)).whole()
        spread = f" if trials spread evenly over {plan.n_shapes} shapes" if plan.n_shapes > 1 else ""
        reporter.message(
            f"plan: {whole_seconds(plan.search_wall_seconds)} of search{spread}; stacks of up to {plan.n_parallel} "
            f"lanes, {plan.lanes_that_fit} fit in memory"
        )
        n_parallel = _lanes_of(folder, lanes_of(prepared, plan, where))
        snapshots = SnapshotFiles(folder.snapshots_path, reporter.message)
        training = trainer_of(settings, plan, folder, reporter, pool, n_parallel=n_parallel, where=where)
        with _failures_explained(folder, storage_url), training as trainer:
            lanes = Occupancy(study, settings, trainer, n_parallel=n_parallel, device=device)
            search = Search(
                Proposals(optuna_study, study, sampler, enqueued),
                lanes,
                budget=budget,
                reporter=reporter,
                inbox=Inbox(folder),
                save_tables=partial(save_tables, folder),
                save_snapshot=lambda search: snapshots.write(capture(search)),
            )
            if (snapshot := snapshots.newest()) is not None:
                restore(search, snapshot)
                reporter.message(taken_up(search))
            compiled_before = compiling_seconds()
            search.run()
    seconds.compiling_kernels = compiling_seconds() - compiled_before
    seconds.search, seconds.training = search.wall_seconds, search.lanes.training_seconds
    reporter.message(f"the search ended because {search.ended}")
    winner = _winner_of(search, folder, loaded)
    of_winner = settings.prepared_of(lanes.shape(winner.config))
    splits = settings.splits(of_winner.shape)
    seconds.features = settings.counts.wall_seconds

    ending = end_run(winner, of_winner, splits, folder, cache_dir, seconds, reporter)
    seconds.total = time.perf_counter() - started
    summary = run_summary(
        search,
        winner,
        ending,
        plan,
        seconds,
        n_val_images=len(splits.val),
        n_test_images=prepared.data.test.n_images,
        n_images_computed=settings.counts.n_computed,
    )
    folder.write_json(folder.summary_path, summary)
    reporter.run_ended(folder)
    return folder


@contextmanager
def _failures_explained(folder: RunFolder, storage_url: str | None) -> Iterator[None]:
    """If a disk or a storage fails during the search, say which of them it is, and how to continue.

    Raises:
        SweepError: Instead of the failure.
    """
    so_far = f"The tables so far are in {folder.path}."
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise SweepError(
                f"cannot write {error.filename}: {error.strerror}. {so_far} Once the problem is solved, continue with "
                f"sweep resume {folder.path}"
            ) from error
        if not isinstance(error, OSError) and not is_storage_error(error):  # else it is Optuna's journal
            raise
        where = shown_url(storage_url) if storage_url else folder.journal_path
        raise SweepError(
            f"the Optuna storage {where} failed: {first_reason(error, storage_url)}. {so_far} Once the storage works "
            f"again, continue with sweep resume {folder.path}"
        ) from error


def _record_source(folder: RunFolder, source: dict[str, Any]) -> None:
    """Record which features a run reads, and check that they are those that an earlier process of the run had.

    Raises:
        SweepError: The weights are not those that the run began with.
    """
    config = read_json(folder.config_path)
    sources = config.get("sources", [])
    known = next((other for other in sources if same_source(source, other)), None)
    if known is None:
        folder.write_json(folder.config_path, {**config, "sources": [*sources, source]})
    elif known["backbone_fingerprint"] != source["backbone_fingerprint"]:
        raise SweepError(
            f"the weights of {source['backbone']} are not those that {folder.path} began with; put them back, or "
            f"start a new run"
        )


def _lanes_of(folder: RunFolder, planned: int) -> int:
    """Lanes to train at a time: as the first process of the run planned, so that all its processes have the same."""
    config = read_json(folder.config_path)
    if "lanes" not in config:
        folder.write_json(folder.config_path, {**config, "lanes": planned})
        return planned
    require_entries(folder.config_path, config, {"lanes": int})
    lanes: int = config["lanes"]
    return lanes


def save_tables(folder: RunFolder, search: Search) -> None:
    """Write the tables and weights so far to the run folder."""
    known = set(search.ledger.log.attributes_as_text)
    folder.write_table(folder.trials_path, search.ledger.log.trials_table())
    for column in sorted(search.ledger.log.attributes_as_text - known):
        search.reporter.message(f"note: the values of {column} are of several types; the tables hold them as text")
    folder.write_table(folder.curves_path, search.ledger.log.curves_table())
    if (winner := search.winner) is not None:
        metadata = winner.spec.metadata(winner.config.rank, winner.config)
        folder.write_weights(folder.winner_path, winner.state, metadata)
        search.kept.write(folder)


def _winner_of(search: Search, folder: RunFolder, loaded: LoadedStudy) -> Winner:
    """The winner. If no trial is complete, raise `SweepError` with the reason and the remedy."""
    if search.winner is not None:
        return search.winner
    records, n_epochs = search.ledger.log.records, loaded.study.epochs
    raise no_winner(records, folder, loaded.path, ended=search.ended, n_epochs=n_epochs)
