"""Attention masks as numbers that are added to the scores: zero for visible tokens, minus infinity for others."""

import torch
from torch import Tensor


def attention_bias(like: Tensor, lengths: Tensor | None, *, causal: bool) -> Tensor | None:
    """The bias to add to the scores of a batch; None if every token attends to all.

    A token of a text attends to all tokens of its text, or if `causal` only to itself and earlier tokens. A causal mask
    needs no lengths, because the padding comes after all tokens of a text.

    Args:
        like: Any tensor `(B, L)` with the dtype and device of the scores.
        lengths: Number of tokens of each text, `(B,)`; None for images.
        causal: Whether a token only attends to itself and earlier tokens.

    Returns:
        `(1, L, L)` if `causal`, else `(B, 1, L)`; one row per query, one column per key.
    """
    if not causal and lengths is None:
        return None
    places = torch.arange(like.shape[-1], device=like.device)
    if causal:
        hidden = places > places.unsqueeze(-1)
    else:
        assert lengths is not None
        hidden = places >= lengths.unsqueeze(-1)
    bias = like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
    return bias.unsqueeze(0) if causal else bias.unsqueeze(1)
