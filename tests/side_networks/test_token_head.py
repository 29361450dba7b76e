"""Heads of every token that read several stages, beside what they are made of."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweep.side_networks import LAST, Ladder, LinearProbe, RowsLadder
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.structure import DENSE

WIDTHS, PREFIX, N_CLASSES = (8, 12, 12, 20), 1, 3
TOKENS = 3**2 + PREFIX


def stages_of(widths: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, TOKENS, width, dtype=torch.float64, generator=generator) for width in widths]


@torch.no_grad()
def randomised(module: nn.Module) -> nn.Module:
    """The module with random numbers in all its weights, as after some training."""
    torch.manual_seed(1)
    for parameter in module.double().parameters():
        parameter.copy_(torch.randn_like(parameter))
    return module


def test_a_probe_adds_a_product_for_every_stage() -> None:
    stages = stages_of(WIDTHS)
    probe = randomised(LinearProbe(20, N_CLASSES, n_prefix_tokens=PREFIX, dense=True, earlier_widths=WIDTHS[1:3]))
    weights = [probe.get_parameter(f"head.{name}") for name in ("earlier.0", "earlier.1", "weight")]
    normalised = [F.layer_norm(stage[:, PREFIX:], stage.shape[-1:]) for stage in stages[1:]]
    expected = probe.get_parameter("head.bias") + sum(
        tokens @ weight.T for tokens, weight in zip(normalised, weights, strict=True)
    )
    torch.testing.assert_close(probe(stages), expected)


def test_a_ladder_reads_stages_of_several_widths_in_both_its_forms() -> None:
    options = {"read_out": DENSE, "n_prefix_tokens": PREFIX}
    direct = randomised(Ladder(WIDTHS, TOKENS, N_CLASSES, 4, head_stages=3, **options))
    rows = RowsLadder(WIDTHS, TOKENS, N_CLASSES, 4, head_stages=3, **options).double()
    rows.load_state_dict(direct.state_dict())
    of_last = Ladder(WIDTHS, TOKENS, N_CLASSES, 4, **options).double()
    of_last.load_state_dict({name: direct.state_dict()[name] for name in of_last.state_dict()})
    stages = stages_of(WIDTHS)
    earlier = [direct.get_parameter(f"head.earlier.{place}") for place in range(2)]
    expected = of_last(stages)
    for stage, weight in zip(stages[1:3], earlier, strict=True):
        expected = expected + F.layer_norm(stage[:, PREFIX:], stage.shape[-1:]) @ weight.T
    torch.testing.assert_close(direct(stages), expected)
    torch.testing.assert_close(rows(stages), expected)


def test_last_adds_the_heads_of_side_networks_that_end_at_each_stage() -> None:
    """Its representation at a stage is that of a LAST which has the blocks up to there."""
    stages = stages_of((16,) * 4)
    options = {"n_prefix_tokens": PREFIX, "modules_per_block": 2, "dense": True}
    whole = randomised(LAST(16, 4, N_CLASSES, 3, head_stages=3, **options))
    expected = torch.zeros(2, TOKENS - PREFIX, N_CLASSES, dtype=torch.float64)
    for n_stages, name in ((2, "earlier.0"), (3, "earlier.1"), (4, "weight")):
        part = LAST(16, n_stages, N_CLASSES, 3, **options).double()
        of_blocks = {key: value for key, value in whole.state_dict().items() if key.startswith("blocks.")}
        of_head = {"head.weight": whole.get_parameter(f"head.{name}"), "head.bias": torch.zeros(N_CLASSES)}
        known = part.state_dict()
        part.load_state_dict({key: value for key, value in {**of_blocks, **of_head}.items() if key in known})
        expected = expected + part(stages[:n_stages])
    torch.testing.assert_close(whole(stages), expected + whole.get_parameter("head.bias"))


@pytest.mark.parametrize("family", ["last", "ladder", "convolution", "full_convolution", "probe"])
def test_a_new_lane_starts_as_one_whose_head_reads_the_last_stage(family: str) -> None:
    def spec(head_stages: int) -> SideNetworkSpec:
        return SideNetworkSpec(
            width=16,
            n_stages=4,
            n_classes=N_CLASSES,
            n_prefix_tokens=PREFIX,
            modules_per_block=1,
            pool="mean",
            max_rank=4,
            family=family,
            read_out=DENSE,
            n_tokens=TOKENS,
            head_stages=head_stages,
        )

    stages = [stage.float() for stage in stages_of((16,) * 4)]
    one, three = (spec(n).lane(4, seed=5)(stages) for n in (1, 3))
    torch.testing.assert_close(three, one)
    assert spec(3).trainable_parameters(4) - spec(1).trainable_parameters(4) == 2 * 16 * N_CLASSES
    saved = SideNetworkSpec.of_metadata(spec(3).metadata(4))
    assert saved == spec(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_stages": "0"}, "head_stages must be between 1 and 3, not 0"),
        ({"head_stages": "4"}, "head_stages must be between 1 and 3, not 4"),
        ({"head_cells": "3"}, "head_cells must be one of .*, not 3"),
    ],
)
def test_a_file_with_another_head_is_refused(change: dict[str, str], message: str) -> None:
    metadata = SideNetworkSpec(
        width=16, n_stages=4, n_classes=2, n_prefix_tokens=1, modules_per_block=1, pool="mean", max_rank=4
    ).metadata(4)
    with pytest.raises(ValueError, match=message):
        SideNetworkSpec.of_metadata({**metadata, **change})
