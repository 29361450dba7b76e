"""A search as `sweep run` makes it, that leaves nothing on disk: for suites that compare searches."""

import optuna
import torch

from sweep.records.reporter import Reporter
from sweep.search.occupancy import Occupancy
from sweep.search.proposals import Proposals
from sweep.search.requests import Inbox
from sweep.search.samplers import sampler_of
from sweep.search.search import Search
from sweep.search.trainer import SettingOf
from sweep.search.training_here import TrainingHere
from sweep.study.budget import Budget
from sweep.study.declaration import Study


def in_memory_search(
    study: Study,
    setting_of: SettingOf,
    *,
    n_parallel: int,
    device: torch.device,
    reporter: Reporter,
    budget: Budget | None = None,
) -> Search:
    """Make a search of one objective that is to be maximised.

    Args:
        study: What is searched.
        setting_of: Gives what the lanes of a shape train on and with.
        n_parallel: Lanes.
        device: Where they train.
        reporter: Told what happens.
        budget: When to end before all trials are trained.
    """
    sampler = sampler_of(study)
    return Search(
        Proposals(optuna.create_study(direction="maximize", sampler=sampler), study, sampler),
        Occupancy(study, setting_of, TrainingHere(setting_of, device), n_parallel=n_parallel, device=device),
        budget=budget or Budget(),
        reporter=reporter,
        inbox=Inbox(None),
        save_tables=lambda search: None,
        save_snapshot=lambda search: None,
    )
