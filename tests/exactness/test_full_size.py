"""Exactness at realistic sizes.

At such sizes, the order in which a matrix library sums depends on the number of rows.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from sweep.features.batches import StageData
from sweep.machine.precision import FEWEST_ROWS, SUMMED_AT_ONCE, add_product, write_product
from sweep.side_networks import LAST, PyramidLAST, RankSpaceLAST, RankSpacePyramidLAST
from sweep.side_networks.cpu.attention import MAX_UNROLLED_RANK
from sweep.study.lane_config import LaneConfig
from sweep.training.engine import train

TOKENS, BATCH, N_CLASSES, STEPS = 65, 32, 10, 2
WIDTHS = (384, 384, 384)
PYRAMID_WIDTHS = (192, 192, 384, 768)


def first_lane(
    kind: type[LAST] | type[PyramidLAST], rank: int, data: StageData, n_lanes: int, threads: int
) -> list[Tensor]:
    """Train `n_lanes` lanes for an epoch. Return the weights and validation logits of lane 0."""
    torch.set_num_threads(threads)
    modules = []
    for i in range(n_lanes):
        torch.manual_seed(i)
        if issubclass(kind, PyramidLAST):
            modules.append(kind(PYRAMID_WIDTHS, N_CLASSES, rank))
        else:
            modules.append(kind(WIDTHS[0], len(WIDTHS), N_CLASSES, rank))
    configs = [LaneConfig(lr=1e-3 * (i + 1), rank=rank) for i in range(n_lanes)]
    states, results = train(modules, configs, data, data, n_epochs=1, batch_size=BATCH, seed=0)
    return [*states[0].values(), *(result.val_logits[0] for result in results)]


IN_RANK_SPACE = [
    (RankSpaceLAST, 1),
    (RankSpaceLAST, 8),
    (RankSpaceLAST, 24),
    (RankSpaceLAST, MAX_UNROLLED_RANK + 8),
    (RankSpacePyramidLAST, 8),
]
DIRECT = [(LAST, 8), (PyramidLAST, 8)]


@pytest.mark.parametrize(
    ("kind", "rank", "threads"),
    [
        *((*form, threads) for form in IN_RANK_SPACE for threads in (1, 2)),
        *((*form, 2) for form in DIRECT),
        *(pytest.param(*form, 1, marks=pytest.mark.slow) for form in DIRECT),
    ],
)
def test_lane_is_bitwise_the_same_in_any_stack(kind: type[LAST], rank: int, threads: int) -> None:
    rng = np.random.default_rng(0)
    widths = PYRAMID_WIDTHS if issubclass(kind, PyramidLAST) else WIDTHS
    stages = [rng.normal(size=(BATCH * STEPS, TOKENS, width)).astype(np.float32) for width in widths]
    labels = torch.from_numpy(rng.integers(0, N_CLASSES, BATCH * STEPS))
    if issubclass(kind, PyramidLAST):
        data = StageData(np.concatenate(stages, -1)[:, None], labels, N_CLASSES, widths=widths)
    else:
        data = StageData(np.stack(stages, 1), labels, N_CLASSES)
    before = torch.get_num_threads()
    try:
        reference = first_lane(kind, rank, data, 9, threads)
        for n_lanes in (1, 2, 3):
            for mine, expected in zip(first_lane(kind, rank, data, n_lanes, threads), reference, strict=True):
                assert torch.equal(mine, expected), f"{n_lanes} lanes: {(mine - expected).abs().max()}"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("terms", "columns"), [(65 * 32, 384), (1024, 130), (SUMMED_AT_ONCE + 1, 1)])
def test_rows_of_a_product_do_not_depend_on_how_many_there_are(terms: int, columns: int) -> None:
    torch.manual_seed(0)
    a, frozen = torch.randn(192, terms), torch.randn(terms, columns)
    products = torch.empty(192, columns)
    write_product(products, a, frozen)
    torch.testing.assert_close(products.double(), a.double() @ frozen.double(), atol=1e-3, rtol=0)
    for rows in (1, 3, FEWEST_ROWS - 1, FEWEST_ROWS, 24, 72, 96):
        fewer = torch.empty(rows, columns)
        write_product(fewer, a[:rows], frozen)
        assert torch.equal(fewer, products[:rows]), rows
        add_product(fewer, a[:rows], frozen)
        assert torch.equal(fewer, 2 * products[:rows]), rows
