"""Heads from the vocabulary of a language model, and what cannot have one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backbones import load_backbone
from backbones.label_words import rows_of_words
from sweep.data import load_data
from sweep.errors import UsageError

WORDS = ("red", "old blue", "Green!")


def test_rows_score_words_as_the_language_model_does(text_decoder: Path, cache_dir: Path) -> None:
    """Its scores are the products of the last features, after the final norm, with the vocabulary's rows."""
    backbone = load_backbone(str(text_decoder), group_size=2, max_tokens=8, cache_dir=cache_dir)
    weight, bias = rows_of_words(backbone, WORDS)
    stage = backbone.stages(backbone.random_inputs(4))[-1]
    table = backbone.network.get_input_embeddings().weight
    names = {word: number for number, word in enumerate(("red", "blue", "green"), start=4 + 10)}
    tokens = [[names["red"]], [4 + 8, names["blue"]], [1]]  # the tokenizer knows no capital letters: [UNK]
    scores = torch.stack([backbone.network.ln_f(stage) @ table[numbers].mean(0) for numbers in tokens], -1)
    ours = F.layer_norm(stage, stage.shape[-1:]) @ weight.T + bias
    torch.testing.assert_close(ours, scores - scores.mean(-1, keepdim=True), rtol=1e-4, atol=1e-4)


def test_an_untrained_head_of_a_real_language_model_is_better_than_chance(cache_dir: Path) -> None:
    data = load_data("rotten-tomatoes", seed=0, cache_dir=cache_dir)
    words = {"fresh": "positive", "rotten": "negative"}
    backbone = load_backbone("smollm2_135m", group_size=30, max_tokens=24, cache_dir=cache_dir)
    weight, bias = rows_of_words(backbone, [words[name] for name in data.class_names])
    which = np.arange(0, data.val.n_images, 4)
    inputs = torch.stack([backbone.transform(data.val.open(int(i))) for i in which])
    stages = backbone.stages(inputs)
    last = stages[-1][torch.arange(len(which)), stages.lengths - 1]
    predicted = (F.layer_norm(last, last.shape[-1:]) @ weight.T + bias).argmax(-1)
    share = (predicted.numpy() == np.asarray(data.val.labels)[which]).mean()
    assert share > 0.5 + 1.64 * (0.25 / len(which)) ** 0.5  # above chance with 95% confidence


def test_a_class_without_words_is_named(text_decoder: Path, cache_dir: Path) -> None:
    backbone = load_backbone(str(text_decoder), group_size=2, max_tokens=8, cache_dir=cache_dir)
    with pytest.raises(UsageError, match=r"no word in the class '---'; give it one .*label_words=\{'---': 'word'\}"):
        rows_of_words(backbone, ["red", "---"])


def test_backbones_without_a_vocabulary_are_refused(text_encoder: Path, cache_dir: Path) -> None:
    for name in (str(text_encoder), "tiny-untrained"):
        backbone = load_backbone(name, group_size=2, cache_dir=cache_dir)
        with pytest.raises(UsageError, match=f"output vocabulary of a causal language model, and {backbone.name} is"):
            rows_of_words(backbone, WORDS)


def test_the_last_stage_must_be_that_of_the_last_block(text_decoder: Path, cache_dir: Path) -> None:
    backbone = load_backbone(str(text_decoder), stages=(1, 3), max_tokens=8, cache_dir=cache_dir)
    with pytest.raises(UsageError, match="the output of the last block, 4, as the last stage, and --stages ends with"):
        rows_of_words(backbone, WORDS)
