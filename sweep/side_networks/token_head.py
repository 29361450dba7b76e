"""Heads that answer for every patch token, for segmentation and detection.

`C` is the number of outputs of a token. For detection, it is the number `K` of `sweep.tasks.boxes`. For segmentation, a
token answers for `cells` x `cells` places of its part of the image, each with an output for every class. Outputs are
interpolated between these places later.

A head reads the last `k` stages, `z_{m-k+1} … z_m`. The outputs of token `l` are sums over these stages:

    linear    Σ_i LN(z_i,l) W_i + b                the linear probe; this LN has no weights, since W_i absorbs them
    stream    Σ_i LN(z_i,l) W_i + LN(h_l) V + b    beside a stream h of width r
    LAST      Σ_i LN(x_i,l) W_i + b                of LAST's representations x_i = z_i + Σ_j U_jᵀ A_j, where j runs over
                                                   the modules up to stage i; `token_outputs` computes it in rank space

`W_m` is drawn at random. `V` and the other `W_i` start at zero, so at first each of these is a probe of the last stage.

In rank space, a stage of LAST's head is one more module without attention. Let `Ũ` be the centred up-projections of the
modules up to that stage, one below the other, `A` their attention outputs, and `z̃` the centred stage. For the centred
representation `x̃`,

    W x̃  = W z̃ + (W Ũᵀ) A               |x̃|² = |z̃|² + 2 A · (Ũ z̃) + A · (Ũ Ũᵀ) A

so the only products of size `D` are those of `W` and `Ũ` with `z̃`, which is frozen: one product for all lanes and each
stage, with `C` rows for `W` where a module has `3r`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.machine.precision import product
from sweep.side_networks.padding import COLUMNS, PaddedLayerNorm, padded_normal
from sweep.tasks.label_maps import by_place

EPS = 1e-5
"""Constant `eps` of the LN."""


class TokenHead(nn.Module):
    """The linear probe of every patch token, over one stage or several.

    Args:
        width: Width `D` of the last stage.
        n_outputs: Number of outputs `C` of a token.
        n_prefix_tokens: Class and register tokens before the patch tokens.
        earlier_widths: Width `D_i` of every stage before it that the head reads, too.
        cells: Rows, and columns, of places whose outputs come one after the other, as `P cells²` tokens.
    """

    def __init__(
        self, width: int, n_outputs: int, *, n_prefix_tokens: int, earlier_widths: Sequence[int] = (), cells: int = 1
    ):
        super().__init__()
        self.n_prefix_tokens, self.cells = n_prefix_tokens, cells
        linear = nn.Linear(width, n_outputs)
        self.weight, self.bias = linear.weight, linear.bias
        self.earlier = nn.ParameterList(torch.zeros(n_outputs, earlier) for earlier in earlier_widths)

    @property
    def weights(self) -> list[Tensor]:
        """`W_i` of every stage that it reads, each `(C, D_i)`."""
        return [*self.earlier, self.weight]

    def read(self, stages: Sequence[Tensor]) -> Sequence[Tensor]:
        """Those of all stages that it reads: the last."""
        return stages[-len(self.weights) :]

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Outputs `(B, P, C)` for the `P` patch tokens of stages, each `(B, L, D_i)`; or of their cells."""
        return self.by_place(self.of_tokens(stages))

    def by_place(self, outputs: Tensor) -> Tensor:
        """Outputs `(B, P, C)` of tokens as those of their cells, `(B, P cells², C / cells²)`."""
        return outputs if self.cells == 1 else by_place(outputs, self.cells)

    def of_tokens(self, stages: Sequence[Tensor]) -> Tensor:
        """Outputs `(B, P, C)` of stages, each `(B, L, D_i)`, in the order of the weights."""
        if torch.compiler.is_compiling():  # torch.export needs plain operators
            return self._of_streams(self.read(stages))
        rows = self.bias.unsqueeze(1)
        for weight, stage in zip(reversed(self.weights), reversed(self.read(stages)), strict=True):
            frozen = F.layer_norm(stage[:, self.n_prefix_tokens :], stage.shape[-1:], eps=EPS)
            rows = product(weight, frozen.flatten(0, 1).T) + rows  # one product for all lanes
        outputs: Tensor = rows.unflatten(1, frozen.shape[:2]).movedim(0, -1)
        return outputs

    def of_streams(self, streams: Sequence[Tensor]) -> Tensor:
        """The result of `forward` for streams that have a gradient, one for each stage that it reads."""
        return self.by_place(self._of_streams(streams))

    def _of_streams(self, streams: Sequence[Tensor]) -> Tensor:
        outputs: Tensor = self.bias
        for weight, stream in zip(reversed(self.weights), reversed(streams), strict=True):
            tokens = F.layer_norm(stream[:, self.n_prefix_tokens :], stream.shape[-1:], eps=EPS)
            outputs = F.linear(tokens, weight, outputs) if outputs.dim() == 1 else F.linear(tokens, weight) + outputs
        return outputs


def token_outputs(head: TokenHead, stages: Sequence[Tensor], attended: Tensor, ups: Tensor) -> Tensor:
    """`head.of_streams` of LAST's representations, computed in rank space.

    Args:
        head: The head of the lane.
        stages: All stages `z_0 … z_m`, each `(B, L, D)`.
        attended: Attention outputs of all modules, `A`, `(K·r, B, L)`.
        ups: Centred up-projections of all modules, `Ũ`, `(K·r, D)`.

    Returns:
        Outputs `(B, P, C)`, or of cells.
    """
    n_images, n_tokens = stages[-1].shape[:2]
    n_patches = n_tokens - head.n_prefix_tokens
    n_columns = n_images * n_patches
    a = F.pad(attended[..., head.n_prefix_tokens :].flatten(1), (0, -n_columns % COLUMNS))
    rows, n_rows = head.bias.unsqueeze(1), len(ups)
    of_a_stage = n_rows // (len(stages) - 1)
    for weight, stage in zip(reversed(head.weights), reversed(head.read(stages)), strict=True):
        rows = _of_representation(weight, stage[:, head.n_prefix_tokens :], a[:n_rows], ups[:n_rows]) + rows
        n_rows -= of_a_stage
    of_tokens: Tensor = rows[:, :n_columns].unflatten(1, (n_images, n_patches)).movedim(0, -1)
    return head.by_place(of_tokens)


def _of_representation(weight: Tensor, patches: Tensor, a: Tensor, ups: Tensor) -> Tensor:
    """`W LN(x)` of LAST's representation at one stage, as rows, `(C, columns)`.

    Args:
        weight: `W`, `(C, D)`.
        patches: The patch tokens of the stage, `(B, P, D)`.
        a: `A` of the modules up to that stage, `(k·r, columns)`, with the columns padded.
        ups: `Ũ` of these modules, `(k·r, D)`.
    """
    n_columns = patches.shape[0] * patches.shape[1]
    centred = (patches - patches.mean(-1, keepdim=True)).flatten(0, 1)
    centred = F.pad(centred, (0, 0, 0, a.shape[1] - n_columns))
    of_frozen, crossed = product(torch.cat([weight, ups]), centred.T).split([len(weight), len(ups)])
    squares = centred.square().sum(-1) + (a * (2 * crossed + (ups @ ups.T) @ a)).sum(0)
    inverse = (squares / patches.shape[-1] + EPS).rsqrt()
    rows: Tensor = (of_frozen + (weight @ ups.T) @ a) * inverse
    return rows


class TokenStreamHead(TokenHead):
    """The head of a ladder.

    Args:
        width: As `TokenHead`.
        n_outputs: As `TokenHead`.
        rank: Rank `r`.
        padded_rank: The stack's rank.
        n_prefix_tokens: As `TokenHead`.
        earlier_widths: As `TokenHead`.
        cells: As `TokenHead`.
    """

    def __init__(
        self,
        width: int,
        n_outputs: int,
        rank: int,
        padded_rank: int,
        *,
        n_prefix_tokens: int,
        earlier_widths: Sequence[int] = (),
        cells: int = 1,
    ):
        super().__init__(width, n_outputs, n_prefix_tokens=n_prefix_tokens, earlier_widths=earlier_widths, cells=cells)
        self.norm = PaddedLayerNorm(rank, padded_rank)
        self.stream = padded_normal((n_outputs, rank), (n_outputs, padded_rank), 0.0)

    def beside(self, stages: Sequence[Tensor], of_stream: Tensor) -> Tensor:
        """Outputs `(B, P, C)`, or of cells.

        Args:
            stages: All stages, each `(B, L, D_i)`.
            of_stream: `LN(h) V` of all tokens, `(B, L, C)`.
        """
        return self.by_place(self.of_tokens(stages) + of_stream[:, self.n_prefix_tokens :])
