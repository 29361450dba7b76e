"""Heads that answer for every patch token, for segmentation. Their outputs are interpolated between tokens later.

linear    LN(z_l) W + b                      the linear probe; this LN has no weights, since W absorbs them
stream    LN(z_l) W + LN(h_l) V + b          beside a stream h of width r; V starts at zero: it starts as the probe
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.machine.precision import product
from sweep.side_networks.padding import PaddedLayerNorm, padded_normal


class TokenHead(nn.Module):
    """The linear probe of every patch token.

    Args:
        width: Width `D` of the stage that it reads.
        n_classes: Number of outputs `C`.
        n_prefix_tokens: Class and register tokens before the patch tokens.
    """

    def __init__(self, width: int, n_classes: int, *, n_prefix_tokens: int):
        super().__init__()
        self.n_prefix_tokens = n_prefix_tokens
        linear = nn.Linear(width, n_classes)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, stage: Tensor) -> Tensor:
        """Outputs `(B, P, C)` for the `P` patch tokens of a stage, `(B, L, D)`."""
        frozen = F.layer_norm(stage[:, self.n_prefix_tokens :], stage.shape[-1:])
        if torch.compiler.is_compiling():  # torch.export needs plain operators
            return F.linear(frozen, self.weight, self.bias)
        rows = product(self.weight, frozen.flatten(0, 1).T) + self.bias.unsqueeze(1)  # one product for all lanes
        outputs: Tensor = rows.unflatten(1, frozen.shape[:2]).movedim(0, -1)
        return outputs


class TokenStreamHead(TokenHead):
    """The head of a ladder.

    Args:
        width: As `TokenHead`.
        n_classes: As `TokenHead`.
        rank: Rank `r`.
        padded_rank: The stack's rank.
        n_prefix_tokens: As `TokenHead`.
    """

    def __init__(self, width: int, n_classes: int, rank: int, padded_rank: int, *, n_prefix_tokens: int):
        super().__init__(width, n_classes, n_prefix_tokens=n_prefix_tokens)
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.stream = padded_normal((n_classes, rank), (n_classes, padded_rank), 0.0)

    def beside(self, stage: Tensor, of_stream: Tensor) -> Tensor:
        """Outputs `(B, P, C)`.

        Args:
            stage: The last stage, `(B, L, D)`.
            of_stream: `LN(h) V` of all tokens, `(B, L, C)`.
        """
        outputs: Tensor = self(stage) + of_stream[:, self.n_prefix_tokens :]
        return outputs
