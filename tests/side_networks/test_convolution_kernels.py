"""The compiled depthwise convolution of ladders: the bits of PyTorch's operations, and all lanes in one call."""

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from sweep.side_networks import convolution
from sweep.side_networks.cpu.convolution import convolved
from sweep.side_networks.ladder_rows import Grid, convolution_of_rows
from sweep.side_networks.spec import SideNetworkSpec
from sweep.training.stack import Stack


def of_torch(x: Tensor, weight: Tensor, n_images: int, n_tokens: int, n_prefix_tokens: int) -> Tensor:
    """One lane after the other; a single lane has no kernels."""
    rank, side = weight.shape[1], round((n_tokens - n_prefix_tokens) ** 0.5)
    grid = Grid(n_images, n_tokens, None, causal=False, bias=None)
    lanes = []
    for rows, of_lane in zip(x, weight, strict=True):
        module = convolution.RungConvolution(rank, rank, n_prefix_tokens, side)
        del module.weight
        module.weight = of_lane
        lanes.append(convolution_of_rows(module, rows, grid))
    return torch.stack(lanes)


@pytest.mark.parametrize(
    ("n_lanes", "rank", "n_images", "side", "n_prefix_tokens"),
    [(3, 8, 5, 4, 1), (2, 4, 3, 5, 5), (1, 16, 4, 8, 0), (2, 4, 2, 1, 1)],
)
def test_outputs_and_gradients_have_the_bits_of_pytorch(
    n_lanes: int, rank: int, n_images: int, side: int, n_prefix_tokens: int
) -> None:
    n_tokens = side * side + n_prefix_tokens
    n_columns = -(-n_images * n_tokens // 16) * 16
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(n_lanes, rank, n_columns, generator=rng), torch.randn(n_lanes, rank, 3, 3, generator=rng)
    d_out = torch.randn(x.shape, generator=rng)
    results = []
    for function in (convolved, of_torch):
        inputs = (x.clone().requires_grad_(), weight.clone().requires_grad_())
        out = function(*inputs, n_images, n_tokens, n_prefix_tokens)
        results.append((out, *torch.autograd.grad(out, inputs, d_out)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("ladder", {"read_out": "both"}),
        ("ladder", {"read_out": "pooled", "attention": True}),
        ("ladder", {"read_out": "compact", "mlp": False}),
        ("convolution", {"read_out": "tokens"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_call_with_all_lanes_has_the_bits_of_vmap(
    family: str, options: dict[str, object], dtype: torch.dtype
) -> None:
    spec = SideNetworkSpec(
        width=24,
        n_stages=3,
        n_classes=5,
        n_prefix_tokens=1,
        modules_per_block=1,
        pool="mean",
        max_rank=8,
        family=family,
        n_tokens=17,
        **options,  # type: ignore[arg-type]
    )
    rng = torch.Generator().manual_seed(0)
    stack = Stack([spec.lane(8 - seed, seed).to(dtype) for seed in range(3)])
    stages = [torch.randn(6, 17, 24, generator=rng, dtype=dtype) for _ in range(3)]
    labels = torch.randint(0, 5, (6,), generator=rng)

    def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
        return -logits.log_softmax(-1)[:, torch.arange(len(labels)), labels].mean(1)

    at_once = stack.gradients(stages, labels, losses_of)
    stack._forward = vmap(stack._called, in_dims=(0, 0, None))
    mapped = stack.gradients(stages, labels, losses_of)
    assert torch.equal(at_once[0], mapped[0])
    assert all(torch.equal(at_once[1][name], mapped[1][name]) for name in mapped[1])
