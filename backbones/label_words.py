"""The rows of a language model's vocabulary that belong to words: a classification head that needs no training.

A causal language model scores every token of its vocabulary as the next one, by the product of its last features, after
the final norm, with the token's row in the table of embeddings. If a class has a name in words, the mean of their rows
scores the class in the same way.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbones.protocol import Backbone
from backbones.text_backbone import TextBackbone
from backbones.text_transform import TextTransform
from sweep.errors import UsageError

REMEDY = "leave --label-words out, or give a causal language model such as --backbone smollm2_135m"


def rows_of_words(backbone: Backbone, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """A linear head over the normalised features of the last stage that scores words as the language model does.

    The mean row over all words is taken off, which changes no probability of a softmax.

    Args:
        backbone: A causal text backbone whose last stage is the output of its last block.
        words: One word, or several, for each of the `C` outputs.

    Returns:
        Weights `(C, D)`, which include the weights of the final norm, and biases `(C,)`; on the CPU.

    Raises:
        UsageError: The backbone has no output vocabulary, or a class has no word that the tokenizer knows.
    """
    given: Any = backbone
    network: Any = given.network if isinstance(given, TextBackbone) else None
    if network is None or not (given.causal and network.config.tie_word_embeddings):
        raise UsageError(
            f"--label-words needs the output vocabulary of a causal language model, and {backbone.name} is loaded "
            f"without one; {REMEDY}"
        )
    if given.stage_indices[-1] != given.n_blocks:
        raise UsageError(
            f"--label-words needs the output of the last block, {given.n_blocks}, as the last stage, and "
            f"--stages ends with block {given.stage_indices[-1]}; add it, or leave --label-words out"
        )
    table = network.get_input_embeddings().weight.detach().float().cpu()
    rows = torch.stack([table[_numbers(given, word)].mean(0) for word in words])
    rows -= rows.mean(0)
    weight, bias = _of_norm(given, rows.shape[1])
    return rows * weight, rows @ bias


def _numbers(backbone: TextBackbone, word: str) -> list[int]:
    """The numbers of a word's tokens, in the middle of a sentence: after a space, and without special tokens."""
    plain = " ".join(re.sub(r"[\W_]+", " ", word).split())
    numbers = cast("TextTransform", backbone.transform).numbers(" " + plain, special=False) if plain else []
    if not numbers:
        raise UsageError(
            f"--label-words: the tokenizer of {backbone.name} knows no word in the class {word!r}; give it one in the "
            f"study file, as in Study(label_words={{{word!r}: 'word'}})"
        )
    return numbers


@torch.no_grad()
def _of_norm(backbone: TextBackbone, width: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of the final norm, each `(D,)`.

    They are found by trying: implementations differ in how they store them. A vector of 1 and -1 in turn is its own
    normalised form.

    Raises:
        UsageError: There is no final norm.
    """
    norm = _norm_after_blocks(backbone)
    signs = torch.ones(width)
    signs[1::2] = -1
    given = next(norm.parameters())
    up, down = (norm(x.to(given)).float().cpu() for x in (signs, -signs))
    return (up - down) / 2 * signs, (up + down) / 2


def _norm_after_blocks(backbone: TextBackbone) -> nn.Module:
    """The module with weights that runs after the last block.

    Raises:
        UsageError: There is none, or more than one.
    """
    after: list[nn.Module] = []
    last = backbone.blocks[-1]
    inside = set(last.modules())

    def ran(module: nn.Module, _inputs: object, _outputs: object) -> None:
        if module is last:
            after.clear()
        elif module not in inside and next(module.parameters(recurse=False), None) is not None:
            after.append(module)

    hooks = [module.register_forward_hook(ran) for module in backbone.network.modules()]
    try:
        backbone.stages(backbone.empty_inputs(1))
    finally:
        for hook in hooks:
            hook.remove()
    if len(after) != 1:
        raise UsageError(
            f"--label-words needs a language model with one norm after its last block, and {backbone.name} has "
            f"{len(after)} layers there; {REMEDY}"
        )
    return after[0]
