"""Weights of positions, made for images of another size."""

import warnings
from collections.abc import Mapping
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor

POSITIONS = "pos_embed"
RELATIVE_POSITIONS = "relative_position_bias_table"


def resampled_positions(weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Return `weights` with position embeddings and tables of relative positions resampled for `model`.

    Args:
        weights: A state dict of a timm model's, for square images of any size.
        model: The same model, built for the image size that is wanted.
    """
    wanted = model.state_dict()

    def resampled(name: str, stored: Tensor) -> Tensor:
        if name not in wanted or stored.shape == wanted[name].shape:
            return stored
        made: Tensor = stored
        if name == POSITIONS:
            made = resample_abs_pos_embed(
                stored, new_size=list(model.patch_embed.grid_size), num_prefix_tokens=model.num_prefix_tokens
            )
        if name.endswith(RELATIVE_POSITIONS):
            window = model.get_submodule(name.removesuffix(f".{RELATIVE_POSITIONS}")).window_size
            made = resize_rel_pos_bias_table(stored, new_window_size=window, new_bias_shape=wanted[name].shape)
        return made

    with warnings.catch_warnings():
        # PyTorch's remarks on how timm resamples relative positions
        warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.layers\.interpolate")
        return {name: resampled(name, stored) for name, stored in weights.items()}
