"""Runs a study file that the user gives, for its own side-network and losses."""

from pathlib import Path

from sweep.errors import UsageError
from sweep.side_networks.own_networks import OwnNetwork, own_family
from sweep.study.finding import load_study


def take_own_code(study: str | Path) -> OwnNetwork | None:
    """Execute a study file, so that models with its side-network can be built, and trained with its losses.

    Returns:
        The side-network; None if the study has none of its own.

    Raises:
        UsageError: The file raises an error, or has neither a side-network nor a loss of its own.
    """
    loaded = load_study(str(study))
    network = loaded.study.side_network
    if not isinstance(network, str):
        own_family(network)
        return network
    if not loaded.study.losses:
        raise UsageError(
            f"{loaded.path} has no side-network and no loss of its own: its side_network is {network!r}; leave the "
            f"study file out, or give the study file of the run"
        )
    return None
