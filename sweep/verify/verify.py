"""Check that a trial does not depend on its neighbours: train it again, alone, and compare it with the record."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sweep.data import Split
from sweep.errors import SweepError, UsageError
from sweep.export.selection import winner_of
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.features.folds import Folds
from sweep.features.training_data import training_data
from sweep.machine.checked_files import RESTORE
from sweep.machine.conditions import changed_since
from sweep.machine.settings import computing_on, own_settings
from sweep.records.entries import require_config
from sweep.records.folder import RunFolder
from sweep.records.results import Results, load_results
from sweep.running.preparation import check_precision, side_network_spec
from sweep.running.recorded import config_of_lane, recorded_backbone, recorded_data, recorded_views
from sweep.running.trainers import MOST_THREADS
from sweep.search.lane_weights import weights_of
from sweep.side_networks.given import take_own_code
from sweep.side_networks.own_networks import OwnNetwork
from sweep.study import structure
from sweep.study.augmentation import OWN_FUNCTION, UNDECLARED
from sweep.study.declaration import Study
from sweep.study.folds import recorded_folds
from sweep.study.lane_config import LaneConfig
from sweep.study.shape import padded_rank
from sweep.tasks.targets import Target
from sweep.verify.again import CurveKey, Setting, largest_difference, steps_beside_plain_loop, train_again
from sweep.verify.record import RecordedTrial, recorded_trial

DECLARATIONS = ("modules_per_block", "pool", "precision", "epochs", "batch_size", "seed")
PLAIN_STEPS = 50
PLAIN_PROMISE = 1e-10
"""The promise about a lane and a plain loop in fp64: after one step from the same weights, no weight differs more."""

ROUNDINGS = 100
"""If a change of the weights in their last place changes a plain step by more than a hundredth of `PLAIN_PROMISE`, the
promise is this many times that change. AdamW divides by the size of a gradient, and some gradients are nearly zero."""


@dataclass(frozen=True)
class Comparison:
    """One comparison of a trial with its record.

    Attributes:
        what: What is compared, in a few words.
        count: Number of values that were compared.
        difference: The largest difference; infinite if one side is not a number and the other is.
        promised: The largest difference that is allowed; infinite if there is no promise.
    """

    what: str
    count: int
    difference: float
    promised: float

    @property
    def kept(self) -> bool:
        """Whether the difference is within the promise."""
        return self.difference <= self.promised


@dataclass(frozen=True)
class Verification:
    """A recorded trial compared with the same trial trained alone.

    Attributes:
        trial: The recorded trial.
        comparisons: Learning curve, final metrics, weights (if the run kept them), and the plain loop.
        not_compared: The study's own metrics, which only its code can compute.
        changed: The device, processor and versions that differ from the run's, each with the run's value and the
            present one.
    """

    trial: RecordedTrial
    comparisons: list[Comparison]
    not_compared: list[str]
    changed: dict[str, tuple[str, str]]

    @property
    def kept(self) -> bool:
        """Whether all comparisons are within their promises."""
        return all(comparison.kept for comparison in self.comparisons)


@own_settings()
def verify_trial(
    run: Path,
    number: int,
    *,
    device: torch.device,
    cache_dir: Path,
    data: str | None = None,
    backbone_file: str | None = None,
    tolerance: float = 0.0,
    own_study: Path | None = None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Verification:
    """Train a trial of a run again, alone, with the data orders it saw, and compare it with the record.

    Nothing in the run folder is executed, not even its study: the table has the configuration of every trial.

    Args:
        run: A run folder.
        number: Number of the trial.
        device: Device to train on.
        cache_dir: Root of sweep's cache; features that are no longer there are computed again.
        data: Where the images are now, if not where the run's record says.
        backbone_file: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was the user's own.
        tolerance: Largest difference from the record to accept; on the run's own machine none is promised.
        own_study: The study file, which is executed, if the side-network is one of its own.
        on_epoch: Called after every epoch with its number.

    Raises:
        UsageError: It is not a run folder, or it has no such trial.
        SweepError: Its files are damaged, or the data or the backbone have changed since the run.
    """
    folder, results = RunFolder.open(run), load_results(run)
    require_config(folder, results.config)
    trial = recorded_trial(results, folder, number)
    config = config_of_lane(results.config, trial.config.as_recorded())
    network = None if own_study is None else take_own_code(own_study)
    setting = _setting(config, trial.config, device, cache_dir, data, backbone_file, network)
    with computing_on(_threads(results.config)):
        again = train_again(trial, setting, on_epoch)
    recorded = _curve(trial)
    shared = sorted(recorded.keys() & again.curve.keys())
    last = _last_metrics(again.curve, trial.epochs)
    metrics = sorted(trial.metrics.keys() & last.keys())
    comparisons = [
        Comparison("curve", len(shared), _largest((recorded[k], again.curve[k]) for k in shared), tolerance),
        Comparison(
            "metrics of the last epoch", len(metrics), _largest((trial.metrics[k], last[k]) for k in metrics), tolerance
        ),
    ]
    if kept := _kept_weights(results, folder, trial, again.weights):
        difference = largest_difference(kept, again.weights)
        comparisons.append(Comparison("weights", sum(x.numel() for x in kept.values()), difference, tolerance))
    beside = steps_beside_plain_loop(trial, setting, PLAIN_STEPS)
    n_weights = sum(x.numel() for x in again.weights.values())
    what = f"weights after a step in fp64, compared with plain PyTorch, at the worst of {beside.n_steps} steps"
    promised = max(PLAIN_PROMISE, ROUNDINGS * beside.rounding)
    comparisons.append(Comparison(what, n_weights, beside.of_a_step, promised))
    what = f"weights after {beside.n_steps} steps in fp64, compared with plain PyTorch: training amplifies rounding"
    comparisons.append(Comparison(what, n_weights, beside.of_all, math.inf))
    own = sorted(trial.metrics.keys() - last.keys())
    return Verification(trial, comparisons, own, changed_since(results.config, device))


def _threads(config: Mapping[str, Any]) -> int:
    """The number of threads that the run's lanes were computed on; PyTorch's own where versions up to 0.4 ran."""
    recorded = config.get("threads")
    if isinstance(recorded, int) and 0 < recorded <= MOST_THREADS:
        return recorded
    return torch.get_num_threads()


def _setting(
    config: Mapping[str, Any],
    trial_config: LaneConfig,
    device: torch.device,
    cache_dir: Path,
    data: str | None,
    backbone_file: str | None,
    network: OwnNetwork | None,
) -> Setting:
    declared = {name: config[name] for name in DECLARATIONS}
    declared |= {name: config.get(name, default) for name, default in {**UNDECLARED, **structure.UNDECLARED}.items()}
    if declared["augment"] == OWN_FUNCTION:
        raise UsageError(
            f"the run augmented its images with {OWN_FUNCTION} {config.get('study_file')}, and no file is executed "
            f"because a run folder names it. Only runs whose augmentation has a name can be verified"
        )
    if declared["side_network"] == structure.OWN_NETWORK:
        if network is None:
            raise UsageError(
                f"the run trained {structure.OWN_NETWORK} {config.get('study_file')}, and a file is executed only if "
                f"you give it: sweep verify RUN --trial N --study FILE"
            )
        declared["side_network"] = network
    study = Study(suggest=lambda trial: trial_config, baseline={}, **declared)
    check_precision(study.precision, device)
    images = recorded_data(config, cache_dir, splits=("train", "val"), moved_to=data)
    backbone = recorded_backbone(config, cache_dir, device, given=backbone_file)

    views = recorded_views(study, images.train, backbone.transform, config)
    n_classes, target = images.n_classes, Target.of(images.task, images.train.labels)

    def stages_of(split: Split) -> StageData:
        return compute_features(backbone, split, cache_dir=cache_dir, device=device).as_data(n_classes, target)

    n_folds, n_repeats = recorded_folds(config)
    splits = [images.train, images.val] if n_folds else [images.train]
    train_data = training_data(
        views, splits, stages_of, backbone=backbone, device=device, n_classes=n_classes, target=target
    )
    val_data = reduce(StageData.joined, map(stages_of, splits if n_folds else [images.val]))
    folds = Folds.of(val_data, n_folds, n_repeats, study.seed) if n_folds else None
    buckets = config.get("rank_buckets") or [config["max_rank"]]  # versions before 0.4 padded all lanes alike
    spec = side_network_spec(study, images, backbone, padded_rank(trial_config.rank, buckets))
    return Setting(spec, train_data, val_data, study.epochs, study.batch_size, study.seed, device, folds)


def _curve(trial: RecordedTrial) -> dict[CurveKey, float]:
    columns = (trial.curves[name] for name in ("replicate", "epoch", "metric", "value"))
    return {(int(r), int(e), str(m)): float(v) for r, e, m, v in zip(*columns, strict=True)}


def _last_metrics(curve: dict[CurveKey, float], epoch: int) -> dict[str, float]:
    """Return the metrics of the last epoch as means over replicates, as the table of trials has them."""
    values: dict[str, list[float]] = {}
    for (_, of_epoch, metric), value in curve.items():
        if of_epoch == epoch:
            values.setdefault(metric, []).append(value)
    return {metric: statistics.fmean(of_replicates) for metric, of_replicates in values.items()}


def _kept_weights(
    results: Results, folder: RunFolder, trial: RecordedTrial, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights that the run kept of the trial; an empty dictionary if it kept none."""
    if not (results.trials["state"] == "COMPLETE").any():
        return {}
    try:
        _, kept = weights_of(folder, trial.number, winner_of(results, folder))
    except UsageError:  # the trial is not among the best
        return {}
    shapes, wanted = ({name: x.shape for name, x in state.items()} for state in (kept.state, expected))
    if shapes != wanted:
        raise SweepError(f"the weights of trial {trial.number} in {folder.path} have the wrong shapes{RESTORE}")
    return kept.state


def _largest(pairs: Iterable[tuple[float, float]]) -> float:
    ours, theirs = torch.tensor(list(pairs), dtype=torch.float64).reshape(-1, 2).unbind(1)
    return largest_difference({"": ours}, {"": theirs})
