"""How the compiled kernels of LAST see a batch: its images' tokens, and the groups into which images are divided."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sweep.side_networks.cpu.vectors import VECTOR

if TYPE_CHECKING:
    from sweep.side_networks.rank_space_trunk import FrozenStreams

GROUPS = 4
"""Groups into which a batch's images are divided. Each has its own sum of gradients, so several cores train a lane.

The number is a constant, because the way in which a sum is split decides its last bits.
"""

ALIGNMENT = 2 * VECTOR
"""Widths are padded to a multiple of this number."""


def extents(frozen: "FrozenStreams", tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Number of tokens of every image, and the start and end of those to pool; each `(B,)`.

    Args:
        frozen: The frozen streams.
        tokens: The tokens to pool, as a slice of the tokens that an image or a text has.
    """
    B, L = frozen.squares.shape[1:]
    lengths = torch.full((B,), L) if frozen.lengths is None else frozen.lengths.contiguous()
    starts, stops = zip(*(tokens.indices(length)[:2] for length in lengths.tolist()), strict=True)
    return lengths, torch.tensor(starts), torch.tensor(stops)


def padded(x: Tensor) -> Tensor:
    """The tensor padded with zeros to a width that compiled products take; unchanged if it has such a width."""
    missing = -x.shape[-1] % ALIGNMENT
    return F.pad(x, (0, missing)) if missing else x
