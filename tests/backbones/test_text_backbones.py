"""Text backbones: encoders and decoders of transformers read from folders, the packaged MiniLM, and what is refused."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import Tensor

from backbones import load_backbone, text_models
from backbones.frozen import FrozenBackbone
from backbones.packaged import PACKAGED_TEXTS
from backbones.stages import Stages
from backbones.taps import Taps
from backbones.text_backbone import TextBackbone
from backbones.text_transform import BEYOND
from sweep.data import Split, load_data
from sweep.errors import SweepError, UsageError

Load = Callable[..., TextBackbone]


@pytest.fixture
def load(cache_dir: Path) -> Load:
    def load_(folder: Path | str, **options: Any) -> TextBackbone:
        backbone = load_backbone(str(folder), cache_dir=cache_dir, **options)
        assert isinstance(backbone, TextBackbone)
        return backbone

    return load_


@pytest.fixture
def changed(text_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder's folder, which the tests damage."""
    shutil.copytree(text_encoder, tmp_path / "changed")
    return tmp_path / "changed"


def inputs(backbone: TextBackbone, *texts: str) -> Tensor:
    return torch.stack([backbone.transform(text) for text in texts])


def test_text_becomes_numbers_of_tokens(text_encoder: Path, text_decoder: Path, load: Load) -> None:
    encoder, decoder = (load(folder, max_tokens=6) for folder in (text_encoder, text_decoder))
    (old, red) = decoder.transform("old red")[:2].tolist()
    assert encoder.transform("old red").tolist() == [2, old, red, 3, BEYOND, BEYOND]
    assert encoder.transform("old " * 9).tolist() == [2, old, old, old, old, 3], "a cut keeps the special tokens"
    assert decoder.transform("old " * 9).tolist() == [old] * 6
    assert encoder.transform("").tolist() == [2, 3, *[BEYOND] * 4]
    with pytest.raises(SweepError, match="'  ' has no token"):
        decoder.transform("  ")


def test_causal_networks_are_recognised(text_encoder: Path, text_decoder: Path, load: Load) -> None:
    encoder, decoder = load(text_encoder), load(text_decoder)
    assert (encoder.causal, decoder.causal) == (False, True)
    for backbone in (encoder, decoder):
        one, other = (
            stage[:, :3]
            for stage in (backbone.stages(inputs(backbone, text))[-1] for text in ("a car is new", "a car is old"))
        )
        assert torch.allclose(one, other, atol=1e-6) == backbone.causal


def test_stages_are_the_hidden_states_of_transformers(text_encoder: Path, load: Load) -> None:
    backbone = load(text_encoder, group_size=2)
    batch = inputs(backbone, "the old car", "a very new house is not red")
    stages = backbone.stages(batch)
    assert isinstance(stages, Stages)
    assert stages.lengths.tolist() == [5, 9]
    network: Any = backbone.network
    valid = batch != BEYOND
    with torch.no_grad():
        states = network(batch.clamp_min(0), attention_mask=valid.long(), output_hidden_states=True).hidden_states
    for stage, index in zip(stages, (0, 2, 4), strict=True):
        torch.testing.assert_close(stage[valid], states[index][valid], rtol=1e-4, atol=1e-5)
        assert not stage[~valid].any()


@pytest.mark.parametrize("folder", ["text_encoder", "text_decoder"])
def test_texts_of_similar_lengths_are_read_together(
    folder: str, load: Load, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(request.getfixturevalue(folder), group_size=2)
    texts = ["old " * n for n in (30, 1, 2, 40, 1, 5, 3, 2, 1, 50, 4, 2, 1, 3, 6, 2, 1, 1)]
    batch, alone = inputs(backbone, *texts), [inputs(backbone, text) for text in texts]
    expected = [backbone.stages(text) for text in alone]
    read: list[torch.Size] = []
    hidden_states = TextBackbone._hidden_states

    def noting(self: TextBackbone, ids: Tensor, valid: Tensor) -> list[Tensor]:
        read.append(ids.shape)
        return hidden_states(self, ids, valid)

    monkeypatch.setattr(TextBackbone, "_hidden_states", noting)
    stages = backbone.stages(batch)
    assert isinstance(stages, Stages)
    lengths = (batch != BEYOND).sum(1)
    assert stages.lengths.tolist() == lengths.tolist()
    for place, stage in enumerate(stages):
        assert stage.shape == (*batch.shape, backbone.width)
        torch.testing.assert_close(stage, torch.cat([each[place] for each in expected]), rtol=1e-4, atol=1e-4)
        assert not stage[batch == BEYOND].any()
    assert [n_texts for n_texts, _ in read] == [8, 8, 2]
    assert [n_tokens for _, n_tokens in read] == [sorted(lengths.tolist())[i] for i in (7, 15, 17)]


def test_last_stage_of_a_decoder_comes_before_its_final_norm(text_decoder: Path, load: Load) -> None:
    backbone = load(text_decoder)
    batch = inputs(backbone, "a car is new")
    network: Any = backbone.network
    with torch.no_grad():
        states = network(batch[:, :4]).last_hidden_state
        torch.testing.assert_close(network.ln_f(backbone.stages(batch)[-1][:, :4]), states, rtol=1e-4, atol=1e-5)


def test_default_and_largest_number_of_tokens(text_encoder: Path, load: Load) -> None:
    assert load(text_encoder).tokens == 48, "the network's own maximum, which is below 128"
    assert load(text_encoder, max_tokens=20).size == "20 tokens"
    with pytest.raises(UsageError, match=r"--max-tokens 49 is more than the 48 that '.*bert' takes"):
        load(text_encoder, max_tokens=49)
    with pytest.raises(UsageError, match=r"--max-tokens 2 leaves no room for a text: .* adds 2 special tokens; give 3"):
        load(text_encoder, max_tokens=2)
    with pytest.raises(UsageError, match="max tokens 0 is not a positive number"):
        load(text_encoder, max_tokens=0)


def test_fingerprint_is_of_weights_configuration_and_tokenizer(text_encoder: Path, changed: Path, load: Load) -> None:
    reference = load(text_encoder).fingerprint
    assert load(changed).fingerprint == reference
    seen = {reference}
    for file, before, after in (
        ("tokenizer.json", '"red": 14', '"red": 40'),
        ("tokenizer.json", '"red": 14', '"red": 41'),
        ("config.json", '"num_attention_heads": 2', '"num_attention_heads": 4'),
    ):
        content = (text_encoder / file).read_text()
        assert before in content
        (changed / file).write_text(content.replace(before, after))
        seen.add(load(changed).fingerprint)
    assert len(seen) == 4


def test_options_of_the_other_kind_are_refused(text_encoder: Path, load: Load, cache_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"--image-size is for images.*leave it out"):
        load(text_encoder, image_size=32)
    with pytest.raises(UsageError, match=r"--max-tokens is for texts.*give --image-size"):
        load_backbone("tiny-untrained", max_tokens=16, cache_dir=cache_dir)
    with pytest.raises(UsageError, match="group size 3 does not divide the 4 blocks"):
        load(text_encoder, group_size=3)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_folders_without_a_needed_file_are_refused(changed: Path, file: str, load: Load) -> None:
    (changed / file).unlink()
    with pytest.raises(UsageError, match=rf"has no {file}; give a folder with a text network"):
        load(changed)


def test_damaged_folders(text_encoder: Path, changed: Path, load: Load) -> None:
    (changed / "tokenizer.json").write_text("{}")
    with pytest.raises(SweepError, match="cannot read the tokenizer of"):
        load(changed)
    shutil.copy(text_encoder / "tokenizer.json", changed)
    weights = changed / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:5000])
    with pytest.raises(SweepError, match="cannot read the weights of"):
        load(changed)
    weights.unlink()
    torch.save({}, changed / "pytorch_model.bin")
    with pytest.raises(SweepError, match="cannot read the weights of"):
        load(changed)
    (changed / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(UsageError, match="names no network of transformers: 'no such'"):
        load(changed)


def test_weights_without_a_needed_tensor_are_refused(changed: Path, load: Load) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(changed / "model.safetensors")
    del weights["encoder.layer.2.output.dense.bias"]
    save_file(
        {name: x for name, x in weights.items() if "pooler" not in name},
        changed / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(SweepError, match=r"lack encoder\.layer\.2\.output\.dense\.bias \(1 missing\)"):
        load(changed)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "t5", "d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 2},
            "T5Model, which does not have exactly one list",
        ),
        (
            {"model_type": "albert", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16},
            "AlbertModel, which does not have exactly one list",
        ),
    ],
)
def test_networks_without_a_list_of_blocks(text_encoder: Path, config: dict[str, Any], message: str) -> None:
    tokenizer = (text_encoder / "tokenizer.json").read_text()
    with pytest.raises(UsageError, match=message):
        text_models.built("net", json.dumps({**config, "vocab_size": 64}), tokenizer, taps=Taps(), max_tokens=8)


def test_a_network_that_sees_padding_is_refused(text_encoder: Path, load: Load) -> None:
    backbone = load(text_encoder)
    network: Any = backbone.network
    forward = network.forward
    network.forward = lambda input_ids, attention_mask: forward(input_ids)
    with pytest.raises(UsageError, match="gives for a text change if a longer text is in the same batch"):
        TextBackbone(
            "net",
            network,
            Taps(),
            config_json=backbone.config_json,
            tokenizer_json=backbone.tokenizer_json,
            max_tokens=16,
        )


def test_missing_folders_and_an_unreachable_hub_are_reported(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"there is no folder nowhere"):
        load("./nowhere")
    monkeypatch.setattr(text_models, "hub_answers", lambda: False)
    with pytest.raises(SweepError, match=r"'someone/net' is not available: https?://\S+ does not answer"):
        load("someone/net")


def test_a_name_on_the_hub_is_its_folder_in_the_local_cache(
    text_decoder: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot(name: str, *, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, local_files_only))
        assert not any(pattern.endswith((".bin", ".py")) for pattern in allow_patterns)
        return str(text_decoder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(text_models, "hub_answers", lambda: True)
    backbone = load("someone/gpt2")
    assert (backbone.name, backbone.causal) == ("someone/gpt2", True)
    assert asked == [("someone/gpt2", False)]


@pytest.mark.parametrize("name", [*PACKAGED_TEXTS, "./folder"])
def test_without_transformers_the_remedy_is_told_before_anything_is_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SweepError, match=r'python -m pip install -e "\.\[text\]"'):
        load_backbone(name, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


# The packaged MiniLM

MINILM = "minilm_l6"


@pytest.fixture(scope="module")
def minilm(cache_dir: Path) -> FrozenBackbone:
    return load_backbone(MINILM, group_size=2, max_tokens=48, cache_dir=cache_dir)


def test_minilm_is_as_listed(minilm: FrozenBackbone) -> None:
    listed = PACKAGED_TEXTS[MINILM]
    assert (minilm.n_blocks, minilm.width) == (listed.n_blocks, listed.width)
    assert sum(p.numel() for p in minilm.network.parameters()) == listed.n_parameters
    assert not minilm.causal


@pytest.mark.slow
def test_minilm_knows_more_than_random_weights(minilm: FrozenBackbone, cache_dir: Path) -> None:
    """On posts, the nearest class mean is more accurate than with random weights.

    A misplaced weight would undo this.
    """
    assert isinstance(minilm, TextBackbone)
    data = load_data("newsgroups", seed=0, cache_dir=cache_dir)
    untrained = text_models.built(
        "untrained", minilm.config_json, minilm.tokenizer_json, taps=Taps(2), max_tokens=minilm.tokens
    )

    def means(backbone: FrozenBackbone, split: Split, step: int) -> tuple[Tensor, Tensor]:
        indices = range(0, split.n_images, step)
        stages = backbone.stages(torch.stack([backbone.transform(split.open(i)) for i in indices]))
        assert isinstance(stages, Stages)
        return stages[-1].sum(1) / stages.lengths.unsqueeze(1), torch.from_numpy(split.labels[list(indices)])

    accuracy = []
    for backbone in (minilm, untrained):
        train, labels = means(backbone, data.train, 4)
        test, truth = means(backbone, data.val, 2)
        of_classes = torch.stack([train[labels == label].mean(0) for label in range(data.n_classes)])
        accuracy.append((torch.cdist(test, of_classes).argmin(1) == truth).float().mean().item())
    assert accuracy[0] > accuracy[1] + 0.1
    assert accuracy[0] > 0.5
