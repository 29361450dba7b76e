"""The last step of a benchmark protocol: train the chosen configurations on train and val, and test each once."""

import statistics
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import optuna

from sweep.data import Split
from sweep.errors import SweepError
from sweep.features.batches import StageData, TrainingData
from sweep.features.cache import compute_features
from sweep.features.resident import room_on
from sweep.features.training_data import in_room, training_data
from sweep.machine.checked_files import RESTORE, read_json, require_entries
from sweep.machine.memory import available_bytes
from sweep.machine.seeds import derive_seed
from sweep.records.folder import RunFolder
from sweep.running.preparation import Prepared
from sweep.running.settings import RESIDENT_SHARE
from sweep.study.class_weights import of_lane
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig, Pool
from sweep.study.probe import EPOCHS_FACTOR
from sweep.study.shape import shape_of
from sweep.tasks.kinds import recorded_kind
from sweep.tasks.targets import Target
from sweep.training.engine import train
from sweep.training.linear_probe_reference import OF_DECODERS, probe_config, probe_data, probe_of_stages
from sweep.training.stack import Stack, split_logits

RECORD = "retrained.json"
CHOSEN = {
    **{"winner.trial": int, "winner.params": dict, "linear_probe.stage": int, "linear_probe.lr": int | float},
    **{"linear_probe.head_stages": int | None, "linear_probe.pool": str | None},
}


@dataclass(frozen=True)
class Retrained:
    """Results of the retrained winner and linear probe on the test set.

    Attributes:
        winner: Metrics of the winner by name, as means over replicates; empty if test was not looked at.
        winner_std: Standard deviation of the task's score over replicates; 0 for one replicate.
        linear_probe: Metrics of the linear probe by name; empty if test was not looked at.
        n_train_images: Number of images in train and val together.
        n_test_images: Number of images in test.
        wall_seconds: Time of training and testing both.
    """

    winner: dict[str, float]
    winner_std: float
    linear_probe: dict[str, float]
    n_train_images: int
    n_test_images: int
    wall_seconds: float


@dataclass(frozen=True)
class Choice:
    """The choice of a search.

    Attributes:
        config: Configuration of the winner.
        stage: Last stage that the linear probe reads.
        lr: Its learning rate.
        loss: Its loss; None for the first of the task, which records of version 0.5 do not name.
        head_stages: Number of stages that it reads.
        pool: Which tokens of a text it reads; those that the winner reads if not given.
    """

    config: LaneConfig
    stage: int
    lr: float
    loss: str | None = None
    head_stages: int = 1
    pool: Pool | None = None

    @classmethod
    def recorded(cls, folder: RunFolder, study: Study) -> "Choice":
        """The choice of a finished run, by its summary.

        Raises:
            SweepError: The summary is damaged.
        """
        summary = read_json(folder.summary_path)
        require_entries(folder.summary_path, summary, CHOSEN)
        config = study.lane_config(optuna.trial.FixedTrial(summary["winner"]["params"]))
        probe = summary["linear_probe"]
        n_stages, pool = probe.get("head_stages") or 1, probe.get("pool")
        if pool not in (None, *OF_DECODERS):
            raise SweepError(f"{folder.summary_path} is damaged: its entry linear_probe.pool is {pool[:40]!r}{RESTORE}")
        return cls(config, probe["stage"], float(probe["lr"]), probe.get("loss"), n_stages, pool)


def retrain(folder: RunFolder, prepared: Prepared, cache_dir: Path, choice: Choice | None = None) -> Retrained:
    """Train a run's winner and its tuned linear probe on train and val together, and test each once.

    Configurations, epochs and batch size stay those of the search, so an epoch has more steps because there are more
    images. The winner is trained in as many replicates as the study has, from new initialisations. The weights of the
    first replicate are written to the run folder as `retrained.safetensors`, and the results as `retrained.json`. The
    targets of a regression keep the scale that was fitted on train, since the configurations were chosen with it.

    Args:
        folder: The run's folder.
        prepared: The run's data and backbone. Its features are in the cache, except augmented views of val.
        cache_dir: Root of sweep's cache.
        choice: The winner and the linear probe; those in the summary of a finished run if not given.

    Raises:
        SweepError: The run's summary is damaged, or its files cannot be written.
    """
    started = time.perf_counter()
    study, device = prepared.study, prepared.device
    choice = choice or Choice.recorded(folder, study)
    prepared = _of_winner(prepared, choice.config, cache_dir)
    data, backbone = prepared.data, prepared.backbone
    target = Target.of(data.task, data.train.labels)

    def stages_of(split: Split) -> StageData:
        return compute_features(backbone, split, cache_dir=cache_dir, device=device).as_data(data.n_classes, target)

    together = training_data(
        prepared.views,
        [data.train, data.val],
        stages_of,
        backbone=backbone,
        device=device,
        n_classes=data.n_classes,
        target=target,
    )
    val, test = stages_of(data.val), stages_of(data.test) if study.test else None

    winner, std = _retrained_winner(folder, prepared, choice.config, together, val, test)

    spec, stages = prepared.spec, range(choice.stage + 1)[-choice.head_stages :]
    pool = choice.pool or spec.pool
    probe = probe_of_stages(spec, stages, derive_seed(study.seed, "retraining", "linear probe")).to(device)
    (state,), _ = train(
        [probe],
        [probe_config(choice.lr, target.kind, of_lane(study.class_weights), choice.loss)],
        probe_data(spec, together, pool)(stages),
        probe_data(spec, val.first(1), pool)(stages),
        n_epochs=EPOCHS_FACTOR * study.epochs,
        batch_size=prepared.study_of_shape.batch_size,
        seed=study.seed,
        only_last=True,
    )
    probe.load_state_dict(state)
    of_probe = {}
    if test is not None:
        outputs = split_logits(Stack([probe]), probe_data(spec, test, pool)(stages))[0]
        of_probe = target.measure_one(outputs, test.labels)
    retrained = Retrained(
        winner=winner,
        winner_std=std,
        linear_probe=of_probe,
        n_train_images=len(together),
        n_test_images=data.test.n_images,
        wall_seconds=time.perf_counter() - started,
    )
    folder.write_json(folder.path / RECORD, asdict(retrained))
    return retrained


def _of_winner(prepared: Prepared, config: LaneConfig, cache_dir: Path) -> Prepared:
    """The run's data and backbone for lanes of the winner's shape."""
    shape = shape_of(prepared.study, config)
    same_features = shape.source == prepared.shape.source
    return prepared.of_shape(shape, cache_dir, prepared.backbone if same_features else None)


def _retrained_winner(
    folder: RunFolder,
    prepared: Prepared,
    config: LaneConfig,
    together: TrainingData,
    val: StageData,
    test: StageData | None,
) -> tuple[dict[str, float], float]:
    """The winner's metrics on test, as means over replicates, and the standard deviation of its score."""
    study, spec, device = prepared.study, prepared.spec, prepared.device
    seeds = [derive_seed(study.seed, "retraining", i) for i in range(study.seeds)]
    room = room_on(device, round(RESIDENT_SHARE * available_bytes(device)))
    train_data, val_data = in_room(together, val.first(1), room)
    states, _ = train(
        [spec.lane(config.rank, seed, config).to(device) for seed in seeds],
        [config] * study.seeds,
        train_data,
        val_data,  # the engine needs a set to measure; its result is not used, since val is part of the training data
        n_epochs=study.epochs,
        batch_size=prepared.study_of_shape.batch_size,
        seed=study.seed,
        lane_seeds=seeds,
        only_last=True,
    )
    modules = []
    for state in states:
        module = spec.plain(config.rank, config)
        module.load_state_dict(spec.trimmed(config.rank, state))
        modules.append(module)
    folder.write_weights(folder.retrained_path, modules[0].state_dict(), spec.metadata(config.rank, config))
    if test is None:
        return {}, 0.0
    logits = split_logits(Stack([module.to(device) for module in modules]), test)
    metrics = test.target.measure(logits, test.labels)
    std = statistics.pstdev(metrics[test.target.kind.score].tolist())
    means = {name: values.mean().item() for name, values in metrics.items()}
    return means | test.target.standard_error(logits[0], test.labels), std


def read_retrained(folder: RunFolder) -> Retrained | None:
    """The results that `retrain` wrote into a run folder; None if there are none yet.

    Raises:
        SweepError: The file is damaged.
    """
    path = folder.path / RECORD
    if not path.is_file():
        return None
    value = read_json(path)
    value.setdefault("winner_std", value.get("winner_top1_std"))  # its name in 0.3.0
    names = [field.name for field in fields(Retrained)]
    numbers = {name: int | float for name in names if name not in ("winner", "linear_probe")}
    score = recorded_kind(read_json(folder.config_path)).score
    require_entries(path, value, {**numbers, f"winner.{score}": float, f"linear_probe.{score}": float})
    return Retrained(**{name: value[name] for name in names})
