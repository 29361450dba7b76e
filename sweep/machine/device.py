"""The device on which the backbone and the lanes run."""

import torch

from sweep.errors import UsageError

DEVICE_TYPES = ("cpu", "cuda")


def device_named(name: str | None) -> torch.device:
    """Return the device with this name. Without a name, return the GPU if there is one, else the CPU.

    Raises:
        UsageError: The device cannot be used on this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "mps":
            raise UsageError(
                f"--device {name} cannot be used: metrics and learning-rate schedules are computed in 64-bit floats, "
                f"which PyTorch does not have on a Mac's GPU. Use --device cpu"
            )
        if device.type not in DEVICE_TYPES:
            raise UsageError(f"--device {name} cannot be used here: sweep runs on {' and '.join(DEVICE_TYPES)}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}. Leave it out to let sweep choose") from error
    return device
