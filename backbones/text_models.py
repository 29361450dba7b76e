"""Load text backbones from a package, a folder, the hub, or an exported model."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.hub import hub_answers
from backbones.taps import Taps
from backbones.text_backbone import TextBackbone
from sweep.errors import SweepError, UsageError
from sweep.machine.seeds import seeded

CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
HUB_FILES = (CONFIG_FILE, TOKENIZER_FILE, "model*.safetensors", "model.safetensors.index.json")
DEFAULT_TOKENS = 128
POOLER = "pooler."
"""Weights that read an encoder's first token after the stages; they are not used, and missing in some files."""


def text_backbone(name: str, *, taps: Taps, max_tokens: int | None) -> TextBackbone:
    """Load a network of transformers. None of its code is executed, and nothing is unpickled.

    Args:
        name: A folder that `save_pretrained` wrote, or a name on the hub, such as `openai-community/gpt2`.
        taps: Which blocks to read.
        max_tokens: `L`; None for 128, or for the network's limit if that is less.

    Raises:
        UsageError: There is no such folder, it has no text encoder or decoder, or an option does not fit it.
        SweepError: transformers is not installed, a file is damaged, or the hub does not answer.
    """
    require_transformers(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("./", "../", "/", "~")):
            raise UsageError(f"backbone {name!r}: there is no folder {folder}")
        folder = _from_hub(name)
    config_json, tokenizer_json = (_read(name, folder / file) for file in (CONFIG_FILE, TOKENIZER_FILE))
    with torch.device("meta"):
        _network(name, config_json)  # raises an error if the configuration is wrong
    from transformers import AutoModel

    try:
        with seeded(0):
            network, report = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # of the library, about files: a dozen types
        raise SweepError(f"cannot read the weights of {name!r} in {folder}: {first_line(error)}") from error
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(POOLER)):
        raise SweepError(
            f"the weights of {name!r} in {folder} lack {missing[0]} ({len(missing)} missing); save it again"
        )
    return _adapted(name, network, taps, config_json, tokenizer_json, max_tokens)


def built(
    name: str,
    config_json: str,
    tokenizer_json: str,
    *,
    weights: Mapping[str, Tensor] | None = None,
    taps: Taps,
    max_tokens: int | None,
) -> TextBackbone:
    """Build a network of transformers from what its files hold.

    Args:
        name: The name of the backbone.
        config_json: The contents of its configuration file.
        tokenizer_json: The contents of its tokenizer file.
        weights: All weights of the network; seeded random numbers if not given.
        taps: Which blocks to read.
        max_tokens: As in `text_backbone`.

    Raises:
        UsageError: As in `text_backbone`.
        SweepError: As in `text_backbone`, or `weights` do not fit the network.
    """
    require_transformers(name)
    with seeded(0):
        network: Any = _network(name, config_json)
    if weights is not None:
        network.pooler = None
        own = {key: tensor for key, tensor in weights.items() if not key.startswith(POOLER)}
        try:
            network.load_state_dict(own, strict=True)
        except RuntimeError as error:
            raise SweepError(f"the weights are not those of {name!r}: {first_line(error)}") from error
    return _adapted(name, network, taps, config_json, tokenizer_json, max_tokens)


def require_transformers(name: str) -> None:
    """Check that transformers is installed.

    Raises:
        SweepError: It is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise SweepError(f'{name!r} needs transformers; install it: python -m pip install -e ".[text]"')
    from transformers.utils import logging

    logging.set_verbosity_error()  # it warns of every unused tensor in a file
    logging.disable_progress_bar()


def _network(name: str, config_json: str) -> nn.Module:
    from transformers import CONFIG_MAPPING, AutoModel

    try:
        values = json.loads(config_json)
        if values["model_type"] not in CONFIG_MAPPING:
            raise KeyError(values["model_type"])
        network: nn.Module = AutoModel.from_config(
            CONFIG_MAPPING[values["model_type"]].from_dict(values), dtype=torch.float32, trust_remote_code=False
        )
    except Exception as error:  # of the library, about a file: a dozen types
        raise UsageError(
            f"the {CONFIG_FILE} of {name!r} names no network of transformers: {first_line(error)}"
        ) from error
    return network


def _adapted(
    name: str, network: Any, taps: Taps, config_json: str, tokenizer_json: str, max_tokens: int | None
) -> TextBackbone:
    most = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:  # -1 of an XLNet: any number
        most = None
    if max_tokens is not None and most is not None and max_tokens > most:
        raise UsageError(f"--max-tokens {max_tokens} is more than the {most} that {name!r} takes")
    return TextBackbone(
        name,
        network,
        taps,
        config_json=config_json,
        tokenizer_json=tokenizer_json,
        max_tokens=max_tokens or min(DEFAULT_TOKENS, most or DEFAULT_TOKENS),
    )


def _from_hub(name: str) -> Path:
    """Return the folder in the hub's local cache; download it if necessary."""
    from huggingface_hub import constants, snapshot_download

    offline = constants.HF_HUB_OFFLINE or not hub_answers()
    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), local_files_only=offline))
    except (OSError, ValueError) as error:
        reason = f"{constants.ENDPOINT} does not answer" if offline else first_line(error)
        raise SweepError(
            f"{name!r} is not available: {reason}, it is not in the hub's local cache, and it is not a folder.\n"
            f"On a machine with a connection, save it with AutoModel and AutoTokenizer (save_pretrained), and give the "
            f"folder: --backbone ./FOLDER"
        ) from error


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"backbone {name!r}: {path.parent} has no {path.name}; give a folder with a text network and its fast "
            f"tokenizer, both written by save_pretrained"
        ) from error
    except (OSError, ValueError) as error:
        raise SweepError(f"cannot read {path}: {error}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
