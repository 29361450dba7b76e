"""The multi-stage probe: every stage is pooled with learned weights and classified, and the logits are added.

This module is the definition, the export format, and the form that the engine runs.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from backbones.stages import lengths_of
from sweep.machine.precision import product
from sweep.side_networks.attention import softmax
from sweep.side_networks.head import Head, share_of_tokens
from sweep.study.lane_config import Pool


class StageProbe(nn.Module):
    """`LN(Σ_l softmax(t)_l z_l) W`: a linear probe of one stage with learned weights for its tokens.

    Args:
        width: Width `D` of the stage.
        n_tokens: Largest number of tokens of an input, `L`.
        n_classes: Number of outputs `C`.
    """

    def __init__(self, width: int, n_tokens: int, n_classes: int):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(n_tokens))
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.zeros(n_classes, width))


class MultiStage(nn.Module):
    """The side-network. It has no residual stream.

        pooled_i = Σ_l softmax(t_i)_l z_{i,l}                      over the tokens that the probe would pool
        logits = head(LN(pooled_m)) + Σ_{i<m} LN(pooled_i) W_i

    `t_i` and `W_i` start at zero, so an untrained multi-stage probe is the linear probe. It has no rank.

    Args:
        widths: `D` of every stage.
        n_tokens: Largest number of tokens of an input, `L`.
        n_classes: Number of outputs `C`.
        pool: As `Head`.
        n_prefix_tokens: Class and register tokens before the patch tokens.

    Raises:
        ValueError: As `Head`.
    """

    def __init__(
        self, widths: Sequence[int], n_tokens: int, n_classes: int, *, pool: Pool = "mean", n_prefix_tokens: int = 0
    ):
        super().__init__()
        self.head = Head(widths[-1], n_classes, pool=pool, n_prefix_tokens=n_prefix_tokens)
        self.places = nn.Parameter(torch.zeros(n_tokens))
        self.probes = nn.ModuleList(StageProbe(width, n_tokens, n_classes) for width in widths[:-1])

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Logits `(B, C)` from stages `z_0 … z_m`, each `(B, L, D_i)`; for texts `backbones.stages.Stages`."""
        lengths = lengths_of(stages)
        logits: Tensor = self.head(self._pooled(self.places, stages[-1], lengths))
        for probe, z in zip(cast("list[StageProbe]", self.probes), stages[:-1], strict=True):
            logits = logits + probe.norm(self._pooled(probe.places, z, lengths)) @ probe.weight.T
        return logits

    def _pooled(self, places: Tensor, stage: Tensor, lengths: Tensor | None) -> Tensor:
        """Mean of a stage's tokens `(B, L, D)` with the weights `softmax(t)`, `(B, D)`."""
        tokens, n_tokens = self.head.tokens, stage.shape[1]
        if lengths is None:  # the same weights for all images: one product for all lanes
            weights = softmax(places[:n_tokens][tokens])
            if torch.compiler.is_compiling():  # torch.export needs plain operators
                return torch.einsum("l,bld->bd", weights, stage[:, tokens])
            frozen = stage[:, tokens].transpose(0, 1).flatten(1)
            of_images: Tensor = product(weights.unsqueeze(0), frozen).unflatten(1, (len(stage), -1))
            return of_images.squeeze(0)
        there = share_of_tokens(tokens, n_tokens, lengths, stage.dtype) > 0
        scores = places[:n_tokens].masked_fill(~there, -torch.inf)
        pooled: Tensor = (softmax(scores).unsqueeze(1) @ stage).squeeze(1)
        return pooled
