"""The form that the lanes of a study take."""

from dataclasses import replace

import torch

from sweep.side_networks import LAST, RankSpaceLAST
from sweep.side_networks.spec import SideNetworkSpec


def spec_of(max_rank: int) -> SideNetworkSpec:
    return SideNetworkSpec(
        width=384, n_stages=13, n_classes=5, n_prefix_tokens=1, modules_per_block=1, pool="mean", max_rank=max_rank
    )


def test_low_ranks_run_in_rank_space_and_high_ones_in_the_direct_form() -> None:
    assert spec_of(8).form == "rank space"
    assert type(spec_of(8).lane(4, seed=0)) is RankSpaceLAST
    assert spec_of(256).form == "direct"
    assert type(spec_of(256).lane(4, seed=0)) is LAST


def test_the_form_changes_no_initial_weight_of_a_lanes_own_rank() -> None:
    low, high = spec_of(8).lane(4, seed=3).state_dict(), spec_of(256).lane(4, seed=3).state_dict()
    for name, value in low.items():
        own = tuple(slice(n) for n in value.shape)
        assert torch.equal(value, high[name][own]), name


def test_a_compact_read_out_of_many_tokens_and_classes_stays_small() -> None:
    """197 tokens and 1,000 classes, as of ViT-B at 224 px on ImageNet: the full matrix has a weight for every pair."""
    sizes = {}
    for read_out in ("tokens", "compact"):
        spec = replace(spec_of(16), family="ladder", n_tokens=197, n_classes=1000, read_out=read_out)
        with torch.device("meta"):
            named = list(spec.plain(16).named_parameters())
        sizes[read_out] = sum(p.numel() for name, p in named if name.startswith("head."))
    assert sizes["tokens"] > 197 * 16 * 1000
    assert sizes["compact"] < sizes["tokens"] / 20
