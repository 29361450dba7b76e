"""The end of a run, after its search: the linear-probe reference, training again, and the one look at the test set."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from sweep.features.batches import StageData
from sweep.features.folds import Folds
from sweep.machine.checked_files import read_weights
from sweep.records.folder import RunFolder
from sweep.records.reporter import Reporter
from sweep.running.preparation import Prepared
from sweep.running.retrain import Choice, Retrained, retrain
from sweep.running.settings import Splits
from sweep.search.search import Winner
from sweep.study.class_weights import of_lane
from sweep.study.folds import standard_error
from sweep.tasks.kinds import CLASSES
from sweep.training.linear_probe_reference import ProbeResult, tuned_linear_probe
from sweep.training.stack import Stack, split_logits


@dataclass
class WallSeconds:
    """How a run's wall time is divided, in seconds.

    In a resumed run, `training` and `search` include the time of earlier processes up to the snapshots that were
    continued. The other entries count only the process that finished the run.

    Attributes:
        features: The feature pass over all splits.
        training: Training and evaluating the stacks.
        search: The whole search: `training`, proposals, reports and tables.
        compiling_kernels: The part of `search` in which this process compiled kernels.
        linear_probe: Tuning the linear-probe reference.
        test: Evaluating the winner.
        retraining: Training the winner and the probe again, and evaluating them.
        total: The time from the first step to the summary.
    """

    features: float = 0.0
    training: float = 0.0
    search: float = 0.0
    compiling_kernels: float = 0.0
    linear_probe: float = 0.0
    test: float = 0.0
    retraining: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Ending:
    """The results of a run beside those of its search.

    Attributes:
        probe: The tuned linear probe.
        val_error: The standard error of the winner's score on the validation set, if it was bootstrapped or is one over
            folds.
        test: The winner's metrics on the test set; empty if it was not looked at, or by the retrained winner only.
        retrained: The winner and the probe trained again; None if they were not.
    """

    probe: ProbeResult
    val_error: dict[str, float]
    test: dict[str, float]
    retrained: Retrained | None


def end_run(
    winner: Winner,
    of_winner: Prepared,
    splits: Splits,
    folder: RunFolder,
    cache_dir: Path,
    seconds: WallSeconds,
    reporter: Reporter,
) -> Ending:
    """Do what a study declares for the end of a run.

    Args:
        winner: The winner of the search.
        of_winner: The run's data and backbone for lanes of the winner's shape.
        splits: The features of its splits.
        folder: The run folder, which has the winner's weights.
        cache_dir: Root of the feature cache.
        seconds: Gets the time of every part.
        reporter: Receives progress events.
    """
    study, device = of_winner.study, of_winner.device
    test_data = None if study.trains_again else splits.test
    reporter.message("reference: tuning a linear probe on the same features")
    started = time.perf_counter()
    spec = of_winner.spec
    most = max(spec.head_stages, min(study.head_stages, spec.n_stages - 1))  # what side-networks may read, it may, too
    cells = max(spec.head_cells, study.head_cells)
    probe = tuned_linear_probe(
        replace(spec, head_stages=most, head_cells=cells),
        splits.train,
        splits.val,
        test_data,
        n_epochs=study.epochs,
        batch_size=of_winner.study_of_shape.batch_size,
        seed=study.seed,
        device=device,
        class_weights=of_lane(study.class_weights),
        folds=Folds.of(splits.val, study.folds, study.repeats, study.seed) if study.folds else None,
    )
    seconds.linear_probe = time.perf_counter() - started

    started = time.perf_counter()
    if study.folds:
        score = splits.val.target.kind.score
        val_error = {f"{score}_error": standard_error(winner.record.score_std, study.folds)}
        test: dict[str, float] = {}
    else:
        module = winner.spec.plain(winner.config.rank, winner.config)
        module.load_state_dict(read_weights(folder.winner_path))
        val_error, test = _evaluated(Stack([module.to(device)]), splits.val, test_data)
    seconds.test = time.perf_counter() - started

    retrained = None
    if study.trains_again:
        reporter.message("training the winner and the probe again, on train and val")
        choice = Choice(winner.config, probe.stage, probe.lr, probe.loss, probe.head_stages, probe.pool)
        retrained = retrain(folder, of_winner, cache_dir, choice)
        seconds.retraining = retrained.wall_seconds
    return Ending(probe, val_error, test, retrained)


def _evaluated(
    stack: Stack, val_data: StageData, test_data: StageData | None
) -> tuple[dict[str, float], dict[str, float]]:
    """The standard error of the winner's score on the validation set, and its metrics on the test set."""
    target = val_data.target
    val_error = {}
    if target.kind is not CLASSES:  # for classes, the score alone gives the standard error
        val_error = target.standard_error(split_logits(stack, val_data)[0], val_data.labels)
    if test_data is None:
        return val_error, {}
    return val_error, target.measure_one(split_logits(stack, test_data)[0], test_data.labels)
