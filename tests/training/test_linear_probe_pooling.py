"""Beside a text decoder, the linear probe is tuned over the last token and the mean over the tokens."""

import pytest
import torch

from sweep.features.batches import StageData
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import Pool
from sweep.training.linear_probe_reference import LEARNING_RATES, ProbeResult, tuned_linear_probe

N, L, D, STAGES = 60, 8, 16, 3


def texts(which: str, seed: int) -> StageData:
    """Features of texts of 3 to 8 tokens, in which only one pooling says whether a text is of class 1.

    For `"last"`, the last token has the class and a token before it the opposite, so that both cancel in the mean. For
    `"mean"`, a token before the last one has it.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, L + 1, (N,), generator=generator)
    labels = torch.randint(0, 2, (N,), generator=generator)
    stages = torch.randn(N, STAGES, L, D, generator=generator) / 4
    sign = 2.0 * labels - 1
    everyone = torch.arange(N)
    if which == "last":
        stages[everyone, :, lengths - 1, 0] = 3 * sign[:, None]
        stages[everyone, :, 0, 0] = -3 * sign[:, None]
    else:
        stages[everyone, :, 0, 0] = 6 * sign[:, None]
    return StageData(stages.numpy(), labels, 2, lengths=lengths)


def tuned(which: str, pool: Pool, *, causal: bool = False) -> ProbeResult:
    spec = SideNetworkSpec(
        width=D,
        n_stages=STAGES,
        n_classes=2,
        n_prefix_tokens=0,
        modules_per_block=1,
        max_rank=4,
        pool=pool,
        causal=causal,
    )
    train, val, test = (texts(which, seed) for seed in range(3))
    return tuned_linear_probe(spec, train, val, test, n_epochs=3, batch_size=16, seed=0, device=torch.device("cpu"))


@pytest.mark.parametrize("which", ["last", "mean"])
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_better_pooling_is_found_whichever_side_networks_have(which: str, pool: Pool) -> None:
    probe = tuned(which, pool=pool, causal=True)
    assert probe.pool == which
    assert probe.n_configurations == 2 * (STAGES - 1) * len(LEARNING_RATES)
    assert probe.val["top1"] > 0.9
    assert probe.test["top1"] > 0.9


def test_beside_an_encoder_the_probe_reads_what_side_networks_read() -> None:
    probe = tuned("last", pool="mean")
    assert probe.pool is None
    assert probe.n_configurations == (STAGES - 1) * len(LEARNING_RATES)
    assert probe.test["top1"] < 0.8, "the mean over the tokens says nothing here"
