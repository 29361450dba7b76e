"""LoRA in the encoders and decoders of transformers, whose inputs are texts of different lengths."""

from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.stages import lengths_of
from backbones.text_transform import BEYOND
from sweep.bench.adapters import LoraNetwork
from sweep.features.batches import StageData

HEAD_LR = 5e-3
RANK = 8
LEARNING_RATES = (2e-4, 6e-4, 2e-3)


class LoraText(LoraNetwork):
    """LoRA in a network of transformers. Its only input is token numbers `(B, L, 1)`, with the length of every text."""

    def tokens(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """See `LoraNetwork`. Tokens never attend to padding, and the head does not pool it."""
        (numbers,), lengths = inputs, lengths_of(inputs)
        assert lengths is not None
        ids = numbers.squeeze(-1).long()
        valid = torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(-1)
        padding = self.network.config.pad_token_id or 0
        result = self.network(input_ids=ids.where(valid, padding), attention_mask=valid.long())
        return result.last_hidden_state, lengths


def token_data(rows: Sequence[Tensor], labels: Tensor, n_classes: int) -> StageData:
    """Texts as `LoraText` reads them: one stage of width 1, `(n, 1, L, 1)`, whose values are token numbers.

    Stages are read as floats. Single precision holds every whole number up to 16 million, so no token is changed.

    Args:
        rows: The token numbers of every text, `(L,)`, with `BEYOND` after its end.
        labels: Class indices `(n,)`.
        n_classes: Number of classes.
    """
    numbers = torch.stack(list(rows))
    lengths = (numbers != BEYOND).sum(1)
    return StageData(numbers[:, None, :, None].float().numpy(), labels, n_classes, lengths=lengths)
