"""Loads the side-network of a study file that the user gives."""

from pathlib import Path

from sweep.errors import UsageError
from sweep.side_networks.own_networks import OwnNetwork, own_family
from sweep.study.finding import load_study


def take_own_network(study: str | Path) -> OwnNetwork:
    """Execute a study file, so that models with its side-network can be built.

    Returns:
        The side-network.

    Raises:
        UsageError: The file raises an error, or has no side-network of its own.
    """
    loaded = load_study(str(study))
    if isinstance(loaded.study.side_network, str):
        raise UsageError(
            f"{loaded.path} has no side-network of its own: its side_network is {loaded.study.side_network!r}; "
            f"leave the study file out, or give the study file of the run"
        )
    own_family(loaded.study.side_network)
    return loaded.study.side_network
