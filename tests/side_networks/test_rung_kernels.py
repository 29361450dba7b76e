"""The compiled kernels of a ladder's rung, compared with plain PyTorch in double precision."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from backbones.stages import Stages
from sweep.side_networks.cpu import heads, rung
from sweep.side_networks.ladder import HEADS, RungAttention, RungMLP
from sweep.side_networks.ladder_rows import COLUMNS, Grid, attention_of_rows, normalised_rows, with_mlp_of_rows

RANKS, PADDED = (16, 9, 3), 16
# fewer columns than a block, one block, and more than one block per group
COLUMN_NUMBERS = [COLUMNS, 64, 5 * COLUMNS + 64 * rung.GROUPS]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_lanes(build: Callable[[int], torch.nn.Module]) -> list[torch.nn.Module]:
    """Return modules of several ranks in fp64, with random weights as after training."""
    modules = []
    for rank in RANKS:
        module = build(rank).double()
        own = dict(type(module)(rank, rank).named_parameters())
        with torch.no_grad():
            for i, (name, parameter) in enumerate(module.named_parameters()):
                shape = own[name].shape
                parameter[tuple(map(slice, shape))] += 0.3 * drawn(*shape, seed=i)
        modules.append(module)
    return modules


def rows_of_lanes(n_columns: int) -> Tensor:
    """Return `h` of every lane. Its padding is zero."""
    h = 1 + 2 * drawn(len(RANKS), PADDED, n_columns)
    for lane, rank in zip(h, RANKS, strict=True):
        lane[rank:] = 0
    return h


def computed(
    compute: Callable[[torch.nn.Module, Tensor], Tensor], modules: Sequence[torch.nn.Module], h: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Compute all lanes in one `vmap`.

    Return the results, and the gradients of a weighted sum by `h` and by the weights.
    """
    params, buffers = torch.func.stack_module_state(list(modules))
    h = h.clone().requires_grad_()

    def of_lane(own: dict[str, Tensor], constants: dict[str, Tensor], rows: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(Called(modules[0], compute), (_under(own), _under(constants)), rows)
        return result

    out = vmap(of_lane)(params, buffers, h)
    weights = drawn(len(RANKS), *out.shape[1:], seed=7).to(out.dtype)[: len(h)]
    for lane, rank in zip(weights, RANKS, strict=False):
        lane[rank:] = 0
    return out.detach(), list(torch.autograd.grad((out * weights).sum(), [h, *params.values()]))


def _under(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in values.items()}


class Called(torch.nn.Module):
    def __init__(self, module: torch.nn.Module, compute: Callable[[torch.nn.Module, Tensor], Tensor]):
        super().__init__()
        self.module, self.compute = module, compute

    def forward(self, rows: Tensor) -> Tensor:
        return self.compute(self.module, rows)


def check(
    compute: Callable[[torch.nn.Module, Tensor], Tensor], modules: list[torch.nn.Module], h: Tensor, fits: bool
) -> None:
    """Compare the kernels, which take single precision only, with the same function in double precision."""
    assert fits
    expected, of_expected = computed(compute, modules, h)
    single = [module.float() for module in modules]
    got, of_got = computed(compute, single, h.float())
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(of_got, of_expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("n_columns", COLUMN_NUMBERS)
def test_mlp_and_its_gradients(n_columns: int) -> None:
    h = rows_of_lanes(n_columns)
    check(with_mlp_of_rows, of_lanes(lambda rank: RungMLP(rank, PADDED)), h, rung.fits(h[0].float()))


@pytest.mark.parametrize("n_columns", COLUMN_NUMBERS)
def test_norm_and_its_gradients(n_columns: int) -> None:
    h = rows_of_lanes(n_columns)
    modules = of_lanes(lambda rank: RungMLP(rank, PADDED))
    norms = [module.norm for module in modules]
    check(normalised_rows, norms, h, rung.fits(h[0].float()))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [None, (11, 1, 5)])
def test_attention_and_its_gradients(lengths: tuple[int, ...] | None, causal: bool) -> None:
    """Attention over tokens of images and of texts. The result beyond the end of a text does not matter."""
    n_images, n_tokens = 3, 11
    lengths_there = None if lengths is None else torch.tensor(lengths)

    def grid(like: Tensor) -> Grid:
        zeros = torch.zeros(n_images, n_tokens, 1, dtype=like.dtype)
        return Grid.of([zeros] if lengths_there is None else Stages([zeros], lengths_there), causal=causal)

    h = rows_of_lanes(48)
    h[:, :, n_images * n_tokens :] = 0
    there = torch.arange(n_tokens) < torch.tensor(lengths or (n_tokens,) * n_images).unsqueeze(-1)

    def compute(module: torch.nn.Module, rows: Tensor) -> Tensor:
        out = attention_of_rows(module, normalised_rows(module.norm, rows), grid(rows))
        return out * F.pad(there.flatten().to(rows.dtype), (0, rows.shape[1] - n_images * n_tokens))

    modules = of_lanes(lambda rank: RungAttention(rank, PADDED))
    check(compute, modules, h, heads.fits(h[0].float(), PADDED // HEADS))


def test_gelu_of_large_and_small_numbers() -> None:
    """The MLP passes one channel on unchanged, so that only GELU remains."""
    module = RungMLP(8, 8)
    with torch.no_grad():
        module.norm.weight.zero_()
        module.down.bias.zero_()
        module.up.weight.zero_()
        module.up.bias.copy_(torch.linspace(-9, 9, 16))
        module.down.weight.copy_(torch.eye(16)[:8] + torch.eye(16)[8:])
    h = torch.zeros(8, COLUMNS)
    expected = F.gelu(module.up.bias.double())
    torch.testing.assert_close(
        with_mlp_of_rows(module, h)[:, 0].double(), expected[:8] + expected[8:], rtol=1e-6, atol=1e-6
    )


def test_a_lane_has_the_same_bits_in_any_stack() -> None:
    modules = [module.float() for module in of_lanes(lambda rank: RungMLP(rank, PADDED))]
    h = rows_of_lanes(COLUMN_NUMBERS[-1]).float()
    out, gradients = computed(with_mlp_of_rows, modules, h)
    turned, of_turned = computed(with_mlp_of_rows, modules[:2], h[:2])
    assert torch.equal(out[:2], turned)
    assert all(torch.equal(a[:2], b) for a, b in zip(gradients, of_turned, strict=True))
