"""Weights on the Hugging Face hub: the hub's local cache, whether the hub answers, and safe reading."""

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg

from sweep.errors import SweepError

HUB_PROBE_SECONDS = 5.0
WEIGHTS_ONLY_VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@contextlib.contextmanager
def weights_only() -> Iterator[None]:
    """Make `torch.load` refuse files that contain code, even if a version of timm would allow them."""
    before = os.environ.get(WEIGHTS_ONLY_VARIABLE)
    os.environ[WEIGHTS_ONLY_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY_VARIABLE]
        else:
            os.environ[WEIGHTS_ONLY_VARIABLE] = before


def overlay(name: str, config: PretrainedCfg) -> dict[str, Any] | None:
    """Point timm to cached weights if the hub does not answer; return None if timm can download them itself.

    The hub's client repeats a failed request for most of a minute. One short request before that finds out at once
    whether there is a network.

    Raises:
        SweepError: The hub does not answer, and its local cache does not have the weights.
    """
    if not constants.HF_HUB_OFFLINE and hub_answers():
        return None
    if (cached := cached_file(config)) is not None:
        return {"file": cached, "custom_load": False}  # the hub's files are plain state dicts
    state = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} does not answer"
    raise SweepError(no_weights(name, f"{state}, and {config.hf_hub_id} is not in its local cache"))


def cached_file(config: PretrainedCfg) -> str | None:
    """Return the path of the weights in the hub's local cache, if they are there."""
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES:
        cached = try_to_load_from_cache(str(config.hf_hub_id), file)
        if isinstance(cached, str) and os.path.isfile(cached):
            return cached
    return None


def hub_answers() -> bool:
    """Whether the hub answers within seconds."""
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def no_weights(name: str, reason: str) -> str:
    """Return the message for weights that are not available."""
    return (
        f"no weights for {name!r}: {reason}.\n"
        f"Fetch them where there is a network, with\n"
        f"    python -c \"import timm; timm.create_model('{name}', pretrained=True)\"\n"
        f"and copy the cache (the folder HF_HOME, ~/.cache/huggingface) here; or use the packaged backbone "
        f"dinov2_small_focus"
    )


class Hub:
    """Finds out for many models where their weights are; the hub is asked at most once."""

    @cached_property
    def _answers(self) -> bool:
        return not constants.HF_HUB_OFFLINE and hub_answers()

    def says(self, config: PretrainedCfg) -> str:
        """Say where the weights of a timm model are, in words for the user."""
        if not config.hf_hub_id:
            return str(config.url or "none published")
        if cached_file(config) is not None:
            return "here, in the hub's cache"
        return "on the hub" if self._answers else "not here; no hub answers"
