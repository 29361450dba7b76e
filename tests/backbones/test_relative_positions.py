"""Text networks without a maximum length: XLNet, whose blocks take tokens first and texts second, and Bloom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones import load_backbone, text_models
from backbones.taps import Taps
from backbones.text_backbone import TextBackbone
from backbones.text_transform import BEYOND
from sweep import Study, UsageError, load_results
from sweep.records.reporter import Reporter
from sweep.running.runner import run_study
from sweep.study.finding import LoadedStudy, load_study


@pytest.fixture(scope="module")
def xlnet(text_network: Callable[..., Path]) -> Path:
    return text_network("xlnet", d_model=16, n_layer=4, n_head=2, d_inner=32)


def loaded(folder: Path, cache_dir: Path, **options: Any) -> TextBackbone:
    backbone = load_backbone(str(folder), cache_dir=cache_dir, **options)
    assert isinstance(backbone, TextBackbone)
    return backbone


def test_a_network_without_a_largest_length_takes_any(xlnet: Path, cache_dir: Path) -> None:
    assert loaded(xlnet, cache_dir).tokens == 128
    assert loaded(xlnet, cache_dir, max_tokens=700).tokens == 700


def test_stages_of_an_xlnet_are_its_hidden_states(xlnet: Path, cache_dir: Path) -> None:
    backbone = loaded(xlnet, cache_dir, max_tokens=9)
    assert (backbone.n_blocks, backbone.widths, backbone.causal) == (4, (16,) * 5, False)
    texts = ("the old car", "a very new house is not red", "new")
    batch = torch.stack([backbone.transform(text) for text in texts])
    stages = backbone.stages(batch)
    valid = batch != BEYOND
    network: Any = backbone.network
    with torch.no_grad():
        states = network(batch.clamp_min(0), attention_mask=valid.long(), output_hidden_states=True).hidden_states
    for stage, state in zip(stages, states, strict=True):
        torch.testing.assert_close(stage[valid], state[valid], rtol=1e-4, atol=1e-5)
        assert not stage[~valid].any()


def test_texts_and_tokens_are_not_confused_if_there_are_equally_many(xlnet: Path, cache_dir: Path) -> None:
    backbone = loaded(xlnet, cache_dir, max_tokens=3)
    texts = ("the old car", "a new house", "red is new")
    batch = torch.stack([backbone.transform(text) for text in texts])
    for together, alone in zip(backbone.stages(batch), backbone.stages(batch[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_a_bloom_has_no_positions_at_all(text_network: Callable[..., Path], cache_dir: Path) -> None:
    backbone = loaded(text_network("bloom", hidden_size=16, n_layer=2, n_head=2), cache_dir)
    assert (backbone.tokens, backbone.causal) == (128, True)


@pytest.mark.parametrize("tokens", [-1, 0])
def test_max_tokens_must_be_positive(xlnet: Path, cache_dir: Path, tokens: int) -> None:
    with pytest.raises(UsageError, match=f"max tokens {tokens} is not a positive number of tokens"):
        loaded(xlnet, cache_dir, max_tokens=tokens)
    with pytest.raises(UsageError, match=rf"max_tokens must be a whole number of at least 1, not {tokens} \(--max-tok"):
        load_study("text_lr_rank").study.override(backbone=str(xlnet), max_tokens=tokens)


def test_blocks_that_work_on_another_shape_are_refused(
    text_encoder: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: Callable[..., list[torch.Tensor]] = TextBackbone._hidden_states
    monkeypatch.setattr(TextBackbone, "_hidden_states", lambda *args: [s.flatten(0, 1) for s in states(*args)])
    with pytest.raises(
        UsageError, match=r"work on tensors of shape \(8, 32\) for one text of 8 tokens, and sweep needs"
    ):
        loaded(text_encoder, cache_dir)


def test_a_tokenizer_larger_than_the_table_of_embeddings(xlnet: Path) -> None:
    config = (xlnet / "config.json").read_text().replace('"vocab_size": 64', '"vocab_size": 8')
    tokenizer = (xlnet / "tokenizer.json").read_text()
    with pytest.raises(UsageError, match=r"the network has embeddings of only 8 tokens"):
        text_models.built("net", config, tokenizer, taps=Taps(), max_tokens=8)


@pytest.mark.usefixtures("whole_probe")
def test_a_run_beside_an_xlnet(xlnet: Path, text_table: Path, tmp_path: Path) -> None:
    study: Study = load_study("text_lr_rank").study.override(
        backbone=str(xlnet), data=str(text_table), max_tokens=12, trials=2, epochs=4, batch_size=16
    )
    folder = run_study(
        LoadedStudy("text_lr_rank", Path("text_lr_rank.py"), study),
        n_parallel=2,
        out=tmp_path / "run",
        storage_url=None,
        device_name="cpu",
        cache_dir=tmp_path / "cache",
        reporter=Reporter(),
    )
    results = load_results(folder.path)
    assert (results.trials["state"] == "COMPLETE").all()
    assert results.summary["linear_probe"]["val"]["top1"] > 0.5, "the colour word decides the label"
