"""Side-networks that a study file defines itself: `Study(side_network=MyNet)`.

`MyNet(shapes, n_classes, config)` is called once per lane. A spec, which is also saved to files, refers to it by this
text: `own:`, the name, and the first digits of the SHA-256 of the file that defines it. Code is only executed if the
user gives that file. A side-network that a run folder or an exported model names is looked up among the files that this
process was given.
"""

from collections.abc import Callable

import torch
from torch import nn

from sweep.errors import UsageError
from sweep.machine.user_code import line_of, name_of, source_digest
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import Shapes

OWN = "own:"
OwnNetwork = Callable[[Shapes, int, LaneConfig], nn.Module]

AS_A_BUFFER = "what is not trained belongs into a buffer with persistent=False"

_given: dict[str, OwnNetwork] = {}


def own_family(network: OwnNetwork) -> str:
    """Register a study's own side-network, and return the text by which a spec refers to it."""
    name = name_of(network)
    family = f"{OWN}{name}:{source_digest(network, name)}"
    _given[family] = network
    return family


def take_network(family: str, network: OwnNetwork) -> None:
    """Take a side-network under the name that `own_family` gave it in another process."""
    _given[family] = network


def given_network(family: str) -> OwnNetwork:
    """The side-network of that name.

    Raises:
        UsageError: This process was not given its file, or the file has changed.
    """
    if family not in _given:
        _, name, digest = [*family.split(":", maxsplit=2), "", ""][:3]
        raise UsageError(
            f"the side-network {name[:80]} is from a study file whose SHA-256 begins with {digest[:12]}, and files are "
            f"executed only if you give them: --study FILE, or sweep.load_model(…, study=FILE), with the unchanged file"
        )
    return _given[family]


def own_module(family: str, shapes: Shapes, n_classes: int, config: LaneConfig | None) -> nn.Module:
    """Build a lane's side-network.

    Raises:
        UsageError: This process was not given its file, it raises an error, it does not return a module, or the module
            has parameters or buffers that a stack cannot hold.
    """
    network = given_network(family)
    if config is None:
        raise ValueError(f"{family} is built from a lane's configuration, but none is given")
    try:
        module = network(shapes, n_classes, config)
    except Exception as error:
        raise UsageError(
            f"the study's side_network failed: {type(error).__name__}: {error} ({line_of(network, error)})"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"the study's side_network must make a torch.nn.Module, not {module!r}")
    _check_tensors(module)
    return module


def _check_tensors(module: nn.Module) -> None:
    """Raise an error if a lane's state would not be its parameters, each in fp32 and trained."""
    whose, named = "the study's side_network", dict(module.named_parameters())
    if not named:
        raise UsageError(f"{whose} has no parameters, so there is nothing to train")
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name not in named:
            first = next(other for other, same in named.items() if same is parameter)
            raise UsageError(
                f"{whose} has the same weights under two names, {first} and {name}; keep a module or a parameter in "
                f"one attribute only"
            )
        if not parameter.requires_grad:
            raise UsageError(f"{whose} does not train {name}; {AS_A_BUFFER}")
        if parameter.dtype != torch.float32:
            raise UsageError(f"{whose} has {name} in {parameter.dtype}; parameters must be in torch.float32")
    for name in module.state_dict():
        if name not in named:
            raise UsageError(
                f"{whose} has the buffer {name}, whose values would not be kept; {AS_A_BUFFER}. Batch norms need "
                f"track_running_stats=False"
            )
