"""The granular blocks of `granular_last`."""

from dataclasses import replace

import optuna
import pytest
import torch
from torch import Tensor

from sweep.errors import UsageError
from sweep.side_networks.gated import RANK_GATES
from sweep.side_networks.granular import GranularAttention
from sweep.side_networks.last import LAST, LowRankAttention
from sweep.side_networks.rank_space import RankSpaceLAST
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.asking import check_baseline
from sweep.study.declaration import Study
from sweep.study.lane_config import LaneConfig
from sweep.study.structure import BOXES, DENSE

WIDTH, RANK = 24, 4


def randomised(module: GranularAttention) -> GranularAttention:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape))
    return module.double()


def blockwise(module: GranularAttention, x: Tensor) -> Tensor:
    """The formula of `granular.py`, block by block."""
    k, d = len(module.part), x.shape[-1] // len(module.part)
    x_of = module.norm(x).split(d, -1)
    q, keys, v, up = (w.split(d, -1) for w in (module.q, module.k, module.v, module.up))  # of the part of a channel
    blocks = [(j, i) for j in range(k) for i in range(k)]
    scores = sum((x_of[j] @ q[j][i].T) @ (x_of[i] @ keys[i][j].T).mT for j, i in blocks)
    shares = torch.softmax(module.scale * scores, -1)
    return x + torch.cat([sum(shares @ x_of[j] @ v[j][i].T @ up[i][j] for j in range(k)) for i in range(k)], -1)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_module_computes_the_formula_block_by_block(parts: int) -> None:
    torch.manual_seed(0)
    module, x = randomised(GranularAttention(WIDTH, RANK, RANK, parts=parts)), torch.randn(3, 5, WIDTH).double()
    torch.testing.assert_close(module(x), blockwise(module, x))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_as_many_parameters_as_last_and_a_rank_that_is_higher_by_the_number_of_parts(parts: int) -> None:
    torch.manual_seed(0)
    module, last = randomised(GranularAttention(WIDTH, RANK, RANK, parts=parts)), LowRankAttention(WIDTH, RANK, RANK)
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in last.parameters())
    rows, up = module.rows()
    q, k, v = rows.chunk(3)
    for product in (q.T @ k, v.T @ up):
        assert torch.linalg.matrix_rank(product) == parts * RANK


def test_with_one_part_it_is_last() -> None:
    torch.manual_seed(0)
    module, last = randomised(GranularAttention(WIDTH, RANK, RANK, parts=1)), LowRankAttention(WIDTH, RANK, RANK)
    state = {f"{name}.weight": getattr(module, name)[0] for name in ("q", "k", "v")}
    norm = {f"norm.{name}": p for name, p in module.norm.named_parameters()}
    last.double().load_state_dict({**state, **norm, "up.weight": module.up[0].T})
    x = torch.randn(3, 5, WIDTH).double()
    torch.testing.assert_close(module(x), last(x))


def test_the_initial_weights_are_as_wide_as_those_of_last() -> None:
    """Each block reads `D/k` channels, and its weights are drawn for that many."""
    torch.manual_seed(0)
    wide = GranularAttention(4096, 8, 8, parts=4)
    inputs = LowRankAttention(1024, 8, 8)
    for name in ("q", "k", "v"):
        deviation = getattr(inputs, name).weight.std()
        assert getattr(wide, name).std().item() == pytest.approx(deviation.item(), rel=0.05)
    assert not wide.up.any()


@pytest.mark.parametrize(("width", "rank", "what"), [(10, 4, "the width"), (12, 2, "the rank")])
def test_sizes_that_are_no_multiple_of_the_parts_are_refused(width: int, rank: int, what: str) -> None:
    with pytest.raises(ValueError, match=f"{what} must be a multiple of the number of parts, 4"):
        GranularAttention(width, rank, rank, parts=4)


def test_the_cost_model_counts_the_rank_of_all_blocks_in_rank_space() -> None:
    last = SideNetworkSpec(384, 5, 10, 1, 1, "mean", 8, n_tokens=65)
    granular = replace(last, family="granular_last", parts=2)
    of_rank_16 = replace(last, max_rank=16)
    assert granular.work["rank space"] == of_rank_16.work["rank space"]
    assert granular.work["direct"] == last.work["direct"]
    assert isinstance(granular.plain(8), LAST)


def study_of(rank: int, **declared: object) -> Study:
    def suggest(trial: optuna.Trial) -> LaneConfig:
        return LaneConfig(lr=1e-3, rank=trial.suggest_categorical("rank", [rank]))

    return Study(suggest=suggest, baseline={"rank": rank}, side_network="granular_last", **declared)


@pytest.mark.parametrize(("rank", "parts"), [(2, 2), (32, 2), (64, 4)])
def test_without_a_number_of_parts_the_rank_decides(rank: int, parts: int) -> None:
    config = study_of(rank).lane_config(optuna.trial.FixedTrial({"rank": rank}))
    assert config.parts == parts
    given = study_of(rank, parts=1).lane_config(optuna.trial.FixedTrial({"rank": rank}))
    assert given.parts is None  # the study's own number


def test_a_rank_that_cannot_be_divided_is_refused_with_the_study() -> None:
    with pytest.raises(UsageError, match="into 2 parts, but the study's suggest asked for rank 3; give ranks that are"):
        check_baseline(study_of(3))


def test_a_number_of_parts_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="parts must be a whole number of at least 1, not 0"):
        study_of(4, parts=0)


@pytest.mark.parametrize("read_out", [DENSE, BOXES])
@pytest.mark.parametrize("family", ["granular_last", "gated_last"])
def test_variants_of_last_answer_for_every_token_in_both_forms(family: str, read_out: str) -> None:
    parts = 2 if family == "granular_last" else 1
    spec = SideNetworkSpec(
        WIDTH, 3, 5, 1, 1, "mean", 8, family=family, read_out=read_out, n_tokens=10, parts=parts, causal=False
    )
    torch.manual_seed(0)
    plain = spec.plain(4).double()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.add_((0.02 if name.endswith(RANK_GATES) else 0.2) * torch.randn(parameter.shape))
    fast = replace(spec, max_rank=4).lane(4, seed=0).double()
    fast.load_state_dict(plain.state_dict())
    assert isinstance(fast, RankSpaceLAST)
    stages = [torch.randn(2, 10, WIDTH).double() for _ in range(3)]
    outputs = plain(stages)
    assert outputs.shape == (2, 9, spec.n_outputs)
    torch.testing.assert_close(fast(stages), outputs)
