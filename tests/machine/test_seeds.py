"""Random numbers come from sweep's own generators. They never change, whatever other threads draw."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from backbones import load_backbone
from sweep.machine.seeds import drawing_from, seeded
from sweep.side_networks.families import FAMILIES
from sweep.side_networks.linear_probe import LinearProbe, pooled_probe
from sweep.side_networks.spec import SideNetworkSpec

SEED = 12345


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Draw numbers as version 0.3.0 did, from PyTorch's global state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def spec(**changes: Any) -> SideNetworkSpec:
    values: dict[str, Any] = {
        **{"width": 32, "n_stages": 3, "n_classes": 5, "n_prefix_tokens": 1, "modules_per_block": 2},
        **{"pool": "mean", "max_rank": 4, **changes},
    }
    return SideNetworkSpec(**values)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextmanager
def another_thread_draws() -> Iterator[None]:
    over = threading.Event()

    def draw() -> None:
        while not over.is_set():
            torch.rand(3)
            torch.manual_seed(7)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("changes", [{}, {"max_rank": 32, "width": 8}, {"widths": (8, 16, 32)}])
def test_a_lane_starts_from_the_numbers_of_version_0_3(changes: dict[str, Any]) -> None:
    shape = spec(**changes)
    with global_seed(SEED):
        lane = FAMILIES["last"].lane(shape, 2, shape.padded_rank)
    expected = lane.state_dict()
    with global_seed(SEED):
        probe = LinearProbe(shape.stage_widths[1], 5, stage=1).state_dict()
    with another_thread_draws():
        for _ in range(20):
            assert same(shape.lane(2, SEED).state_dict(), expected)
            assert same(pooled_probe(shape, 1, SEED).state_dict(), probe)


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_tiny_patch16_224", 32), ("resnet18", None), ("convnext_atto", None), ("swin_tiny_patch4_window7_224", 32)],
)
def test_untrained_weights_are_those_of_version_0_3(name: str, size: int | None, cache_dir: Path) -> None:
    options = {} if size is None else {"img_size": size}
    with global_seed(0):
        expected = timm.create_model(name, pretrained=False, num_classes=0, **options).state_dict()
    with another_thread_draws():
        found = load_backbone(f"untrained:{name}", image_size=size, cache_dir=cache_dir)
    assert same(found.network.state_dict(), expected)


def test_untrained_text_weights_are_those_of_version_0_3(text_decoder: Path) -> None:
    from transformers import AutoConfig, AutoModel

    from backbones import Taps
    from backbones.text_models import built

    with global_seed(0):
        expected = AutoModel.from_config(AutoConfig.from_pretrained(text_decoder)).state_dict()
    files = ((text_decoder / file).read_text() for file in ("config.json", "tokenizer.json"))
    with another_thread_draws():
        found = built("gpt2", *files, taps=Taps(), max_tokens=None)
    assert same(found.network.state_dict(), expected)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(5),
        lambda: torch.randn(5),
        lambda: torch.randint(100, (5,)),
        lambda: torch.randperm(5),
        lambda: torch.normal(torch.zeros(5), torch.ones(5)),
        lambda: torch.bernoulli(torch.full((50,), 0.5)),
        lambda: torch.empty(5).exponential_(),
        lambda: nn.init.trunc_normal_(torch.empty(5), std=0.02),
        lambda: nn.init.orthogonal_(torch.empty(4, 4)),
        lambda: torch.multinomial(torch.ones(5), 3),
        lambda: nn.init.kaiming_normal_(torch.empty(4, 4)),
    ],
)
def test_every_way_to_draw_uses_the_seed(draw: Callable[[], Tensor]) -> None:
    with global_seed(SEED):
        expected = draw()
    before = torch.get_rng_state()
    with drawing_from(SEED):
        found = draw()
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_given_generator_and_the_meta_device_are_unaffected() -> None:
    given = torch.Generator().manual_seed(1)
    with drawing_from(SEED):
        first = torch.rand(3, generator=given)
        nn.init.uniform_(torch.empty(3, device="meta"))
        with torch.device("meta"):
            nn.Linear(2, 2)
        second = torch.rand(3)
    assert torch.equal(first, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(second, torch.rand(3, generator=torch.Generator().manual_seed(SEED)))


def test_other_code_runs_with_seeded_states_which_are_restored() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    before = random.getstate()
    with another_thread_draws():
        draws = []
        for _ in range(50):
            with seeded(SEED), seeded(SEED):  # a user's backbone may load another backbone
                draws.append(drawn())
    assert len(set(draws)) == 1
    assert random.getstate() == before
    with seeded(1, seeds_itself=True):
        torch.manual_seed(SEED)
        seeded_again = torch.rand(3)
    assert torch.equal(seeded_again, torch.rand(3, generator=torch.Generator().manual_seed(SEED)))
