"""The form that the lanes of a study take."""

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
