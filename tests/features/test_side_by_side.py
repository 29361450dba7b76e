"""Forward passes side by side on a CPU: the same features in the same order, with any number of threads."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from backbones.protocol import Backbone
from sweep.features.side_by_side import passes
from sweep.machine.settings import computing_on

CPU = torch.device("cpu")
IMAGES, TEXTS = "untrained:resnet18", "texts"


@pytest.fixture(params=["tiny-untrained", IMAGES, TEXTS])
def backbone(request: pytest.FixtureRequest, text_decoder: Path, tmp_path: Path) -> FrozenBackbone:
    """One of each adapter."""
    if request.param == TEXTS:
        return load_backbone(str(text_decoder), max_tokens=12, cache_dir=tmp_path)
    size = 64 if request.param == IMAGES else None
    return load_backbone(request.param, image_size=size, cache_dir=tmp_path)


def batches_of(backbone: FrozenBackbone) -> list[tuple[int, Tensor]]:
    return list(enumerate(backbone.random_inputs(12).split(1)))


def stages(backbone: Backbone, inputs: Tensor) -> list[Tensor]:
    return backbone.stages(inputs)


@pytest.mark.parametrize("n_threads", [2, 3, 8])
def test_features_and_order_are_those_of_one_pass_after_the_other(backbone: FrozenBackbone, n_threads: int) -> None:
    batches = batches_of(backbone)
    with computing_on(n_threads):
        found = list(passes(backbone, batches, stages, CPU))
    assert [batch for batch, _ in found] == [batch for batch, _ in batches]
    for (_, inputs), (_, computed) in zip(batches, found, strict=True):
        for stage, expected in zip(computed, backbone.stages(inputs), strict=True):
            torch.testing.assert_close(stage, expected, rtol=1e-5, atol=1e-5)


def test_two_runs_give_the_same_bits(backbone: FrozenBackbone) -> None:
    with computing_on(2):
        first, second = ([*passes(backbone, batches_of(backbone), stages, CPU)] for _ in range(2))
    for (_, one), (_, other) in zip(first, second, strict=True):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_as_many_passes_as_threads_are_under_way_at_once_and_share_the_weights(backbone: FrozenBackbone) -> None:
    together = threading.Barrier(3)
    copies: dict[int, set[int]] = {}

    def run(mine: Backbone, inputs: Tensor) -> int:
        assert isinstance(mine, FrozenBackbone)
        copies[id(mine)] = {parameter.data_ptr() for parameter in mine.parameters()}
        together.wait(timeout=60)  # breaks unless three passes run at the same time
        return torch.get_num_threads()

    with computing_on(3):
        found = list(passes(backbone, batches_of(backbone), run, CPU))
        assert torch.get_num_threads() == 3, "in this thread"
        new: list[int] = []
        thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert [n_threads for _, n_threads in found] == [1] * 12
    assert new == [3], "in a thread that starts later"
    own = {parameter.data_ptr() for parameter in backbone.parameters()}
    assert len(copies) == 3
    assert all(pointers == own for pointers in copies.values())


def test_a_backbone_that_cannot_be_copied_runs_in_the_callers_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone("tiny-untrained", cache_dir=tmp_path)
    monkeypatch.setattr(type(backbone), "can_be_copied", False)
    with computing_on(2):
        found = list(passes(backbone, batches_of(backbone), lambda mine, _: (mine, threading.get_ident()), CPU))
    assert {result for _, result in found} == {(backbone, threading.get_ident())}


def test_an_error_ends_the_passes_and_their_threads(backbone: FrozenBackbone) -> None:
    def run(_: Backbone, inputs: Tensor) -> None:
        raise ValueError(f"no pass over {len(inputs)} inputs")

    def endless() -> Iterator[tuple[int, Tensor]]:
        number = 0
        while True:
            yield number, backbone.random_inputs(2)
            number += 1

    with computing_on(2), pytest.raises(ValueError, match="no pass over 2 inputs"):
        list(passes(backbone, endless(), run, CPU))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("backbone")]
