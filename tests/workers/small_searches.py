"""Searches over artificial features. They take a fraction of a second and have all that tables could depend on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.storages import InMemoryStorage

from sweep import Halving, LaneConfig, Study
from sweep.features.batches import StageData
from sweep.records.reporter import Reporter
from sweep.search.occupancy import Occupancy
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox
from sweep.search.samplers import sampler_of
from sweep.search.search import Search
from sweep.search.trainer import Trainer
from sweep.search.training_here import TrainingHere
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.budget import Budget
from sweep.study.shape import Shape
from sweep.training.lane_stack import StackSetting

CPU = torch.device("cpu")
WIDTH, N_STAGES, TOKENS, N_CLASSES = 8, 3, 4, 3


def stage_data(n_images: int, seed: int) -> StageData:
    rng = np.random.default_rng(seed)
    stages = rng.normal(size=(n_images, N_STAGES, TOKENS, WIDTH)).astype(np.float16)
    return StageData(stages, torch.from_numpy(rng.integers(0, N_CLASSES, n_images)), N_CLASSES)


TRAIN, VAL = stage_data(18, 0), stage_data(12, 1)


def suggest(trial: optuna.Trial) -> LaneConfig:
    """A search space with dropout and two losses. Some of its lanes diverge."""
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    loss = trial.suggest_categorical("loss", ["cross_entropy", "focal"])
    return LaneConfig(
        lr=1e30 if lr > 0.1 else lr,
        optimizer="sgd" if lr > 0.1 else "adamw",
        rank=trial.suggest_int("rank", 1, 4),
        loss=loss,
        dropout=0.2 if loss == "focal" else 0.0,
    )


def spread(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """A metric that the study declares."""
    return float(logits.std())


COMMON: dict[str, Any] = {
    "suggest": suggest,
    "baseline": {"lr": 1e-2, "loss": "cross_entropy", "rank": 2},
    "batch_size": 8,
    "task": "classes",
    "metrics": {"spread": spread},
}
STUDIES = {
    "lr and rank": Study(**COMMON, trials=7, epochs=3, rank_buckets=(4,)),
    "rungs and refill": Study(**COMMON, trials=10, epochs=4, rank_buckets=(4,), halving=Halving(eta=2)),
    "replicates": Study(
        **COMMON,
        trials=5,
        epochs=3,
        seeds=2,
        rank_buckets=(4,),
        sampler="nsga2",
        objectives={"val_nll": "minimize", "trainable_parameters": "minimize"},
    ),
    "two shapes": Study(**COMMON, trials=10, epochs=4, rank_buckets=(2, 4), halving=Halving(eta=2)),
}


def settings_of(study: Study, data: tuple[StageData, StageData] = (TRAIN, VAL)) -> Callable[[Shape], StackSetting]:
    def setting_of(shape: Shape) -> StackSetting:
        spec = SideNetworkSpec(
            width=WIDTH,
            n_stages=N_STAGES,
            n_classes=N_CLASSES,
            n_prefix_tokens=1,
            modules_per_block=1,
            pool="mean",
            max_rank=shape.padded_rank,
        )
        return StackSetting.of(study, spec, TOKENS, *data)

    return setting_of


def search_of(
    study: Study, trainer: Trainer | None = None, storage: InMemoryStorage | None = None, **options: Any
) -> Search:
    """Return a search of six lanes that has not begun. Without a trainer, it trains in this process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, setting_of = sampler_of(study), settings_of(study)
    optuna_study = optuna.create_study(
        study_name="search",
        storage=storage or InMemoryStorage(),
        directions=list(study.ranking.directions.values()),
        sampler=sampler,
        load_if_exists=True,
    )
    trainer = trainer or TrainingHere(setting_of, CPU)
    functions = {"save_tables": lambda search: None, "save_snapshot": lambda search: None}
    return Search(
        Proposals(optuna_study, study, sampler),
        Occupancy(study, setting_of, trainer, n_parallel=6, device=CPU),
        budget=Budget(),
        reporter=Reporter(),
        inbox=Inbox(None),
        **{**functions, **options},
    )


def result_of(search: Search) -> dict[str, Any]:
    """Return all parts of a search that must not depend on where its lanes train."""
    trials = search.proposals.optuna_study.get_trials()
    return {
        "trials": search.ledger.log.trials_table().drop(columns="seconds"),
        "curves": search.ledger.log.curves_table(),
        "optuna": [(t.number, t.state, t.values, t.params, t.intermediate_values) for t in trials],
        "kept": {weights.trial: weights.state for weights in search.kept},
    }


def assert_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that two results are equal bit for bit."""
    for table in ("trials", "curves"):
        pd.testing.assert_frame_equal(result[table], expected[table], check_exact=True)
    assert result["optuna"] == expected["optuna"]
    assert result["kept"].keys() == expected["kept"].keys()
    for trial, state in expected["kept"].items():
        assert all(torch.equal(result["kept"][trial][name], weights) for name, weights in state.items())
