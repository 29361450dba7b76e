"""Messages about a run before training starts."""

import numpy as np

from backbones.origin import origin_of
from sweep.data.files import what_was_skipped
from sweep.data.summary import MOST_SHOWN, summary, warn_of_shared_items
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.preparation import Prepared
from sweep.running.settings import ShapeSettings
from sweep.search.search import Search
from sweep.study.augmentation import described
from sweep.tasks.kinds import CLASSES


def taken_up(search: Search) -> str:
    """A message that says where a resumed search continues."""
    n_ended = sum(record.state != "RUNNING" for record in search.ledger.log.records)
    return (
        f"continuing after {search.search_seconds:.0f} s of search: {n_ended} trials have ended, "
        f"{len(search.lanes.entrants)} are in training"
    )


def announce(prepared: Prepared, folder: RunFolder, reporter: Reporter) -> None:
    """Report the data, the backbone and the side-network of a run."""
    data, spec = prepared.data, prepared.spec
    reporter.message(f"data: {data.name}, {data.description}")
    reporter.message(f"      {summary(data)}")
    warn_of_shared_items(data)
    if data.skipped:
        reporter.message(f"      {what_was_skipped(data.skipped)} left out; {folder.config_path} lists them")
    if data.notice:
        reporter.message(f"      {data.notice}")
    reporter.message(f"backbone: {prepared.described_backbone}")
    reporter.message(f"      {origin_of(prepared.backbone.name)}")
    reporter.message(f"side-network: {spec.described}")
    if views := described(prepared.study.declarations()):
        reporter.message(f"training images: {views}")
    if prepared.study.folds:
        _announce_folds(prepared, reporter)
    if prepared.study.halving is not None and (beyond := prepared.study.halving.beyond(prepared.study.epochs)):
        reporter.message(f"note: {beyond}")


def _announce_folds(prepared: Prepared, reporter: Reporter) -> None:
    study, data = prepared.study, prepared.data
    again = f", divided {study.repeats} times" if study.repeats > 1 else ""
    reporter.message(
        f"cross-validation: {study.folds} folds of the {data.train.n_images + data.val.n_images} {data.kind} of train "
        f"and val{again}; {study.lanes_per_trial} lanes a trial"
    )
    if data.task != CLASSES.name:
        return
    labels = np.concatenate([data.train.labels, data.val.labels])
    counts = np.bincount(labels, minlength=data.n_classes).tolist()
    rare = [f"{name} {n}" for name, n in zip(data.class_names, counts, strict=True) if 0 < n < study.folds]
    if rare:
        shown = ", ".join(rare[:MOST_SHOWN]) + (", …" if len(rare) > MOST_SHOWN else "")
        reporter.message(
            f"note: {len(rare)} of {data.n_classes} classes have fewer {data.kind} than there are folds ({shown}), so "
            f"some folds have none of them to measure; lower --folds"
        )


def announce_features(settings: ShapeSettings, prepared: Prepared, reporter: Reporter) -> None:
    """Report what the feature pass has done."""
    counts, kind = settings.counts, prepared.data.kind
    if counts.n_computed:
        reporter.message(
            f"features: {counts.n_computed} of {counts.n_needed} {kind} computed in {counts.wall_seconds:.0f} s"
        )
    else:
        reporter.message(f"features: all {counts.n_needed} {kind} from the cache, no backbone forward")
