"""Which tokens a token attends to, as numbers added to the scores: zero, or minus infinity."""

import torch
from torch import Tensor


def attention_bias(like: Tensor, lengths: Tensor | None, *, causal: bool) -> Tensor | None:
    """What to add to the scores of a batch, broadcast over it; None where every token attends to all.

    A token of a text attends to all tokens of its text or, if `causal`, to those up to itself. Then nothing more needs
    to be said of a text's end: what lies beyond comes after all its tokens.

    Args:
        like: Any tensor `(B, L)` of the scores' type.
        lengths: Tokens of each text, `(B,)`; None of images.
        causal: See above.

    Returns:
        `(1, L, L)` if `causal`, else `(B, 1, L)`: a row a query, a column a key.
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
