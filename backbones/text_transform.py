"""Turn a text into the input of a text backbone: token numbers, and a marker after the end of the text."""

import hashlib
import json
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sweep.errors import SweepError, UsageError

if TYPE_CHECKING:  # tokenizers comes with transformers, which is an extra
    from tokenizers import Tokenizer

BEYOND = -1
"""The number in an input after the end of a text."""

LONGEST_SHOWN = 40


@dataclass(frozen=True)
class TextInput:
    """The recorded properties of a `TextTransform`.

    Attributes:
        max_tokens: `L`; of a longer text, the first `L` tokens are read.
        tokenizer_sha256: Hex digest of the tokenizer, without truncation and padding.
    """

    max_tokens: int
    tokenizer_sha256: str


@dataclass(frozen=True)
class TextTransform(TextInput):
    """Turns a text into a backbone's input: its token numbers with special tokens. Create one with `of`."""

    tokenizer: InitVar["Tokenizer"]

    def __post_init__(self, tokenizer: "Tokenizer") -> None:
        object.__setattr__(self, "_tokenizer", tokenizer)

    @classmethod
    def of(cls, tokenizer_json: str, max_tokens: int, *, where: str) -> "TextTransform":
        """Make a transform.

        Args:
            tokenizer_json: The contents of a `tokenizer.json`.
            max_tokens: `L`.
            where: The source of the tokenizer, for messages.

        Raises:
            SweepError: The package `tokenizers` cannot read it.
            UsageError: `max_tokens` leaves no room beside the special tokens.
        """
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # what the package raises is a plain Exception
            raise SweepError(f"cannot read the tokenizer of {where}: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        digest = hashlib.sha256(json.dumps(json.loads(tokenizer.to_str()), sort_keys=True).encode()).hexdigest()
        n_special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_tokens <= n_special:
            raise UsageError(
                f"--max-tokens {max_tokens} leaves no room for a text: {where} adds {n_special} special tokens; "
                f"give {n_special + 1} or more"
            )
        tokenizer.enable_truncation(max_tokens)
        return cls(max_tokens, digest, tokenizer)

    @property
    def vocabulary(self) -> dict[str, int]:
        """The number of every token, those that were added to the tokenizer included."""
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        return tokenizer.get_vocab(with_added_tokens=True)

    def __call__(self, text: str) -> torch.Tensor:
        """Return `text` as int64 of shape (max_tokens,), with `BEYOND` after its last token; thread-safe.

        Raises:
            SweepError: The text has no token, or the tokenizer fails on it.
        """
        ids = self.numbers(text)
        if not ids:
            raise SweepError(f"the text {text[:LONGEST_SHOWN]!r} has no token; leave it out")
        row = np.full(self.max_tokens, BEYOND, dtype=np.int64)
        row[: len(ids)] = ids
        return torch.from_numpy(row)

    def numbers(self, text: str, *, special: bool = True) -> list[int]:
        """The numbers of a text's first `max_tokens` tokens.

        Args:
            text: The text.
            special: Whether the special tokens that the tokenizer adds to a text are among them.

        Raises:
            SweepError: The tokenizer fails on the text.
        """
        tokenizer: Tokenizer = self._tokenizer  # type: ignore[attr-defined]
        try:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
        except Exception as error:  # what the package raises is a plain Exception
            raise SweepError(
                f"the tokenizer fails on the text {text[:LONGEST_SHOWN]!r}: {error}; save the tokenizer again"
            ) from error
        return ids
