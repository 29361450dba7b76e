"""LoRA (peft) inside a network, and the modules that the benchmarks train: the network with its adapters and a head."""

import copy
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sweep.side_networks.head import Head

PROJECTIONS = (
    *("qkv", "Wqkv", "query_key_value", "c_attn"),
    *("query", "key", "value", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin", "v_lin"),
)
"""Names that networks of timm and transformers give to the linear layers of queries, keys and values."""


def has_peft() -> bool:
    """Whether peft is installed, so that LoRA can be measured."""
    return importlib.util.find_spec("peft") is not None


def projections_of(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that compute queries, keys and values, by their name in the network; empty if none is known."""
    return {name: module for name, module in network.named_modules() if name.rpartition(".")[2] in PROJECTIONS}


def with_lora(network: nn.Module, rank: int) -> nn.Module:
    """Add LoRA to the queries, keys and values of every block of a network, and freeze all other weights."""
    from peft import LoraConfig, inject_adapter_in_model

    projections = projections_of(network)
    transposed = any(type(module).__name__ == "Conv1D" for module in projections.values())  # as a GPT-2 stores them
    names = sorted({name.rpartition(".")[2] for name in projections})
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names, fan_in_fan_out=transposed)
    adapted: nn.Module = inject_adapter_in_model(config, network)
    return adapted


class LoraNetwork(nn.Module, ABC):
    """A copy of a network with LoRA, and the head that LAST has.

    Args:
        network: The network; it is copied, and the copy's own weights are frozen.
        head: The head, which reads the last tokens.
        rank: Rank of the adapters.
    """

    def __init__(self, network: nn.Module, head: Head, rank: int):
        super().__init__()
        self.network: Any = with_lora(copy.deepcopy(network), rank)
        self.head = head

    @abstractmethod
    def tokens(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The network's last tokens `(B, L, D)`, and the number of tokens of every text `(B,)`; None for images."""

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Compute logits `(B, C)`."""
        logits: Tensor = self.head(self.head.pool(*self.tokens(inputs)))
        return logits

    @property
    def n_trainable(self) -> int:
        """The number of trained parameters: adapters and head."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class LoraViT(LoraNetwork):
    """LoRA in a Vision Transformer of timm. Its only input is the images, `(B, 3, H, W)`."""

    def tokens(self, inputs: Sequence[Tensor]) -> tuple[Tensor, None]:
        """See `LoraNetwork`."""
        (images,) = inputs
        return self.network.forward_features(images), None
