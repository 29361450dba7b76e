"""Makes searches like those of `sweep run` that write nothing to disk, for suites that compare searches."""

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
    """Make a search with one objective, which is maximised.

    Args:
        study: The study to search.
        setting_of: Gives the data and the side-network structure for a shape.
        n_parallel: Number of lanes.
        device: Device that they train on.
        reporter: Receives progress events.
        budget: Ends the search before all trials are trained.
    """
    sampler = sampler_of(study)
    return Search(
        Proposals(optuna.create_study(direction="maximize", sampler=sampler), study, sampler, study.enqueue),
        Occupancy(study, setting_of, TrainingHere(setting_of, device), n_parallel=n_parallel, device=device),
        budget=budget or Budget(),
        reporter=reporter,
        inbox=Inbox(None),
        save_tables=lambda search: None,
        save_snapshot=lambda search: None,
    )
