"""Heads that answer for every patch token, for segmentation and detection.

For segmentation, `C` is the number of classes, and outputs are interpolated between tokens later. For detection, `C` is
the number `K` of `sweep.tasks.boxes`.

The outputs of token `l`:

    linear    LN(z_l) W + b                      the linear probe; this LN has no weights, since W absorbs them
    stream    LN(z_l) W + LN(h_l) V + b          beside a stream h of width r; V starts at zero: it starts as the probe
    LAST      LN(z_l + Σ_j U_jᵀ A_j,l) W + b     of LAST's representation; `token_outputs` computes it in rank space

In rank space, LAST's head is one more module without attention. Let `Ũ` be the centred up-projections of all modules,
one below the other, `A` their attention outputs, and `z̃` the centred stage. For the centred representation `x̃`,

    W x̃  = W z̃ + (W Ũᵀ) A               |x̃|² = |z̃|² + 2 A · (Ũ z̃) + A · (Ũ Ũᵀ) A

so the only products of size `D` are those of `W` and `Ũ` with `z̃`, which is frozen: one product for all lanes, with
`C` rows for `W` where a module has `3r`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.machine.precision import product
from sweep.side_networks.padding import COLUMNS, PaddedLayerNorm, padded_normal

EPS = 1e-5
"""Constant `eps` of the LN."""


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
        if torch.compiler.is_compiling():  # torch.export needs plain operators
            return self.of_stream(stage)
        frozen = F.layer_norm(stage[:, self.n_prefix_tokens :], stage.shape[-1:], eps=EPS)
        rows = product(self.weight, frozen.flatten(0, 1).T) + self.bias.unsqueeze(1)  # one product for all lanes
        outputs: Tensor = rows.unflatten(1, frozen.shape[:2]).movedim(0, -1)
        return outputs

    def of_stream(self, stream: Tensor) -> Tensor:
        """The same for a stream that has a gradient, `(B, L, D)`."""
        tokens = F.layer_norm(stream[:, self.n_prefix_tokens :], stream.shape[-1:], eps=EPS)
        return F.linear(tokens, self.weight, self.bias)


def token_outputs(head: TokenHead, stage: Tensor, attended: Tensor, ups: Tensor) -> Tensor:
    """`head.of_stream` of LAST's representation, computed in rank space.

    Args:
        head: The head of the lane.
        stage: The last stage, `(B, L, D)`.
        attended: Attention outputs of all modules, `A`, `(K·r, B, L)`.
        ups: Centred up-projections of all modules, `Ũ`, `(K·r, D)`.

    Returns:
        Outputs `(B, P, C)`.
    """
    patches = stage[:, head.n_prefix_tokens :]
    n_images, n_patches, width = patches.shape
    n_columns = n_images * n_patches
    missing = -n_columns % COLUMNS
    centred = F.pad((patches - patches.mean(-1, keepdim=True)).flatten(0, 1), (0, 0, 0, missing))
    a = F.pad(attended[..., head.n_prefix_tokens :].flatten(1), (0, missing))
    of_frozen, crossed = product(torch.cat([head.weight, ups]), centred.T).split([len(head.weight), len(ups)])
    squares = centred.square().sum(-1) + (a * (2 * crossed + (ups @ ups.T) @ a)).sum(0)
    inverse = (squares / width + EPS).rsqrt()
    rows = (of_frozen + (head.weight @ ups.T) @ a) * inverse + head.bias.unsqueeze(1)
    outputs: Tensor = rows[:, :n_columns].unflatten(1, (n_images, n_patches)).movedim(0, -1)
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
