"""Adapter for the text encoders and decoders of Hugging Face transformers.

The network is tested on a few tokens to find out whether it is causal and how it treats padding.
"""

import hashlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from backbones.frozen import FrozenBackbone
from backbones.protocol import weights_fingerprint
from backbones.stages import Stages
from backbones.taps import Taps
from backbones.text_transform import BEYOND, TextTransform
from sweep.errors import UsageError

TRIED_TOKENS = 8
ROUNDING = 1e-5
"""Relative to a stage's largest number: smaller differences mean that a changed token had no effect."""

TOLERANCE = 1e-3
"""Relative to a stage's largest number: how much the same text may differ in another batch, by rounding."""

TEXTS_TOGETHER = 8
"""Texts that the network reads at a time, padded to the longest of them; those of a batch are sorted by length first.

The feature cache records this number, because other groups give features that differ by rounding.
"""


class TextBackbone(FrozenBackbone):
    """A network of transformers whose blocks all have one width.

    Stage `z_0` is the input of the first block, and the other stages are outputs of blocks, before any final norm.
    Positions after the end of a text are zero in every stage.

    Attributes:
        config_json: The contents of the network's configuration file.
        tokenizer_json: The contents of its tokenizer file.
        causal: Whether a token's features depend only on itself and the tokens before it, as in a decoder.
    """

    kind = "texts"

    def __init__(
        self,
        name: str,
        network: nn.Module,
        taps: Taps,
        *,
        config_json: str,
        tokenizer_json: str,
        max_tokens: int,
    ) -> None:
        """Wrap `network`, and test it on a few tokens.

        Raises:
            UsageError: `taps` do not fit the blocks, the network does not take such texts, or has no stages to read.
            SweepError: The tokenizer cannot be read.
        """
        model: Any = network
        model.pooler = None  # it reads the first token after the stages
        model.config.use_cache = False
        transform = TextTransform.of(tokenizer_json, max_tokens, where=name)
        _require_rows(name, transform, model.get_input_embeddings().num_embeddings)
        blocks = _blocks_of(name, model)
        super().__init__(
            name,
            network,
            transform,
            n_blocks=len(blocks),
            stage_indices=taps.of_blocks(name, len(blocks)),
            n_prefix_tokens=0,
        )
        self.config_json, self.tokenizer_json = config_json, tokenizer_json
        self.tokens = max_tokens
        self._blocks = (blocks,)  # in a tuple, so that its weights do not count twice
        self._tokens_first = False
        self._learn()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration and tokenizer."""
        parts = (weights_fingerprint(self.network.state_dict()), self.config_json, self.tokenizer_json)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def size(self) -> str:
        """The size of the input, in words for the user."""
        return f"{self.tokens} tokens"

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the network, in their order."""
        return self._blocks[0]

    def empty_inputs(self, count: int) -> Tensor:
        """Return texts of the largest length, (count, L), which repeat one token."""
        device = next(self.network.parameters()).device
        return torch.zeros(count, self.tokens, dtype=torch.int64, device=device)

    def random_inputs(self, count: int) -> Tensor:
        """Return texts of random tokens and lengths, (count, L), on the CPU, the same at every call."""
        network: Any = self.network
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(network.get_input_embeddings().num_embeddings, (count, self.tokens), generator=generator)
        lengths = torch.randint(1, self.tokens + 1, (count, 1), generator=generator)
        return ids.where(torch.arange(self.tokens) < lengths, BEYOND)

    def _run(self, inputs: Tensor) -> Stages:
        """Compute the stages of (B, L) token numbers, a group of texts of similar lengths at a time."""
        lengths = (inputs != BEYOND).sum(1)
        if torch.compiler.is_compiling():  # a graph has a fixed length and one group
            return Stages(self._padded_stages(inputs), lengths)
        ascending, order = lengths.sort(stable=True)
        longest = ascending.tolist()
        whole: list[Tensor] = []
        for start in range(0, len(longest), TEXTS_TOGETHER):
            group = order[start : start + TEXTS_TOGETHER]
            n_tokens = longest[start : start + TEXTS_TOGETHER][-1]
            stages = self._padded_stages(inputs[group, :n_tokens])
            if not whole:
                whole = [stage.new_zeros(*inputs.shape, stage.shape[-1]) for stage in stages]
            for place, stage in zip(whole, stages, strict=True):
                place[group, :n_tokens] = stage
        return Stages(whole, lengths)

    def _padded_stages(self, ids: Tensor) -> list[Tensor]:
        """Compute the stages of (B, L) token numbers with one call of the network."""
        valid = ids != BEYOND
        taken = self._hidden_states(ids, valid)
        if self._tokens_first:
            taken = [state.transpose(0, 1) for state in taken]
        return [state * valid.unsqueeze(-1) for state in taken]

    def _hidden_states(self, ids: Tensor, valid: Tensor) -> list[Tensor]:
        """Return the input of the first block and the outputs of the tapped blocks, with the network's own layout.

        Args:
            ids: Token numbers, (B, L).
            valid: Whether a token belongs to the text, (B, L).
        """
        network: Any = self.network
        blocks = self.blocks
        taken: list[Tensor] = []

        def entering(_block: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            taken.append(next(x for x in (*args, *options.values()) if isinstance(x, Tensor)))

        def leaving(_block: nn.Module, _args: tuple[Any, ...], out: Any) -> None:
            taken.append(out if isinstance(out, Tensor) else out[0])

        hooks = [blocks[0].register_forward_pre_hook(entering, with_kwargs=True)]
        hooks += [blocks[index - 1].register_forward_hook(leaving) for index in self.stage_indices[1:]]
        try:
            padding = network.config.pad_token_id or 0
            network(input_ids=ids.where(valid, padding), attention_mask=valid.to(torch.int64))
        finally:
            for hook in hooks:
                hook.remove()
        return taken

    @torch.no_grad()
    def _find_layout(self) -> None:
        """Find out whether the blocks work on (B, L, D) or on (L, B, D), as those of an XLNet do.

        Raises:
            UsageError: They work on neither.
        """
        ids = self.empty_inputs(1)[:, :1].repeat(1, TRIED_TOKENS)
        state = self._hidden_states(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        if state.shape[:-1] not in ((1, TRIED_TOKENS), (TRIED_TOKENS, 1)):
            raise UsageError(
                f"the blocks of {self.name!r} work on tensors of shape {tuple(state.shape)} for one text of "
                f"{TRIED_TOKENS} tokens, and sweep needs (texts, tokens, width); give another backbone"
            )
        self._tokens_first = state.shape[0] == TRIED_TOKENS

    def _learn(self) -> None:
        """Find out layout, widths and causality, and check that the network keeps the promises about stages."""
        try:
            self._find_layout()
            whole = self.stages(self.empty_inputs(1))
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"{self.name!r} does not take texts of {self.tokens} tokens: {reason}; lower --max-tokens, or give "
                f"another backbone"
            ) from error
        self.widths = tuple(stage.shape[-1] for stage in whole)
        if len(whole) != len(self.stage_indices) or len(set(self.widths)) > 1:
            raise UsageError(
                f"{self.name!r} does not run each block exactly once, all with the same width; give another backbone"
            )
        ids = torch.arange(TRIED_TOKENS, device=whole[0].device).repeat(2, 1)
        ids[1, -1] = TRIED_TOKENS  # another last token
        one, other = self.stages(ids)[-1][:, :-1]
        self.causal = _difference(one, other) < ROUNDING
        half = TRIED_TOKENS // 2
        ids[1] = ids[0].where(ids[0] < half, BEYOND)
        for padded, alone in zip(self.stages(ids), self.stages(ids[:1, :half]), strict=True):
            if _difference(padded[1, :half], alone[0]) > TOLERANCE:
                raise UsageError(
                    f"the features that {self.name!r} gives for a text change if a longer text is in the same batch; "
                    f"give another backbone"
                )


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, relative to the largest number."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _require_rows(name: str, transform: TextTransform, n_rows: int) -> None:
    """Refuse a tokenizer with tokens that the network's table of embeddings has no row for.

    Raises:
        UsageError: The first such token is named.
    """
    beyond = sorted((number, token) for token, number in transform.vocabulary.items() if number >= n_rows)
    if beyond:
        number, token = beyond[0]
        raise UsageError(
            f"{name!r}: its tokenizer has the token {token!r} with number {number}, but the network has embeddings of "
            f"only {n_rows} tokens ({len(beyond)} have none). Resize them with network.resize_token_embeddings"
            f"({beyond[-1][0] + 1}), and save the network again"
        )


def _blocks_of(name: str, network: Any) -> nn.ModuleList:
    """Return the network's list of blocks.

    Raises:
        UsageError: It has no such list, or more than one.
    """
    if not network.config.is_encoder_decoder:
        n_blocks = getattr(network.config, "num_hidden_layers", 0)
        for module in network.modules():
            if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
                return module
    raise UsageError(
        f"{name!r} is a {type(network).__name__}, which does not have exactly one list of blocks; give a text "
        f"encoder, such as a BERT, or a decoder, such as a GPT or a Llama"
    )
