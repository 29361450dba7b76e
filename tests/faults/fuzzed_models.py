"""Readers of trained networks for the fuzz tests: the weights that a run keeps, exported models, and tokenizers."""

import json
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzed_records import Files, as_json, one_damaged, written
from fuzzed_search import SPEC
from fuzzing import Reader, damaged
from PIL import Image
from safetensors.torch import save
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import backbones
from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from backbones.text_transform import TextTransform
from sweep import SweepError, load_model
from sweep.export.config import CONFIG_FILE, WEIGHTS_FILE, BackboneReference, Member, ModelConfig
from sweep.records.folder import RunFolder
from sweep.search.lane_weights import KeptWeights, LaneWeights, weights_of
from sweep.side_networks.spec import SideNetworkSpec


def kept_weights() -> Files:
    """Return the weights that a run keeps of its winner, trial 1, and of trial 2."""
    kept = KeptWeights()
    for trial in (1, 2):
        kept.add(LaneWeights(trial, trial, SPEC, SPEC.plain(trial).state_dict()))
    tensors = {f"trial {w.trial}/{name}": tensor for w in kept for name, tensor in w.state.items()}
    specs = {str(w.trial): w.spec.metadata(w.rank) for w in kept}
    metadata = {"ranks": json.dumps({"1": 1, "2": 2}), "specs": json.dumps(specs)}
    return {
        "winner.safetensors": save(SPEC.plain(1).state_dict(), SPEC.metadata(1)),
        "weights.safetensors": save(tensors, metadata),
    }


def read_kept(intact: Files, folder: Path, damage: tuple[str, bytes]) -> None:
    """Load the weights of both trials into a network of the recorded shape."""
    name, content = damage
    run = RunFolder(written(folder, {**intact, name: content}))
    for trial in (1, 2):
        spec, found = weights_of(run, trial, winner=1)
        spec.plain(found.rank).load_state_dict(found.state)


@cache
def backbone() -> FrozenBackbone:
    return load_backbone("tiny-untrained", group_size=2, cache_dir=Path("nowhere"))


def backbone_by_name(name: str, **options: Any) -> FrozenBackbone:
    """Stand in for `load_backbone`. Always return the same backbone, which is loaded once."""
    if (name, options["group_size"], options.get("image_size")) != ("tiny-untrained", 2, 32):
        raise SweepError("another backbone")
    return copy(backbone())  # a copy, because `load_model` sets its transform


def exported() -> tuple[ModelConfig, Files]:
    """Return the configuration and the files of an exported model with two side-networks."""
    known = backbone()
    spec = SideNetworkSpec(known.width, len(known.stage_indices), 2, known.n_prefix_tokens, 1, "mean", 2)
    config = ModelConfig(
        backbone=BackboneReference(known.name, known.fingerprint, 2),
        transform=known.transform,
        side_network=spec,
        members=(Member(4, 2, {"lr": 0.1}), Member(7, 1, {})),
        class_names=("a", "b"),
        training={"study": "small"},
    )
    states = [spec.plain(member.rank).state_dict() for member in config.members]
    tensors = {f"side_networks.{i}.{name}": tensor for i, state in enumerate(states) for name, tensor in state.items()}
    return config, {**as_json({CONFIG_FILE: config.as_json()}), WEIGHTS_FILE: save(tensors)}


def read_exported(intact: Files, folder: Path, damage: tuple[str, bytes]) -> None:
    """Load a damaged exported model and predict an image with it."""
    name, content = damage
    written(folder, {**intact, name: content})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "load_backbone", backbone_by_name)
        model = load_model(folder)
    with torch.no_grad():
        outputs = model(model.transform(Image.new("L", (4, 4))).unsqueeze(0))
    assert outputs.shape == (1, len(model.class_names))
    assert all(isinstance(name, str) for name in model.class_names)


def tokenizer() -> bytes:
    words = {"[UNK]": 0, "a": 1, "red": 2, "car": 3}
    made = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    content: str = made.to_str()
    return content.encode()


def read_tokenizer(folder: Path, content: bytes) -> None:
    """Load a tokenizer from the text of its file, as `load_model` does."""
    transform = TextTransform.of(content.decode(errors="replace"), 6, where="the model")
    assert transform("a red car of 1970").shape == (6,)


def model_readers() -> dict[str, Reader]:
    weights = kept_weights()
    config, model = exported()
    described = json.loads(json.dumps(config.as_json()))
    return {
        "kept": Reader(one_damaged(weights, {}), partial(read_kept, weights), 150, 10_000, list(weights.items())),
        "exported": Reader(
            one_damaged(model, {CONFIG_FILE: described}), partial(read_exported, model), 100, 5_000, list(model.items())
        ),
        "tokenizers": Reader(damaged([tokenizer()]), read_tokenizer, 100, 5_000, [tokenizer()]),
    }
