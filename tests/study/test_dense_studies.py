"""The studies for masks and boxes compare ladders, convolutions and LAST."""

from collections import defaultdict

import pytest

from sweep.study.finding import load_study
from sweep.study.rehearsal import surveyed_configs


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_all_families_are_drawn_and_last_learns_at_a_quarter(name: str) -> None:
    study = load_study(name).study
    rates, of_heads = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for config in surveyed_configs(study):
        family = str(config.side_network or study.side_network)
        rates[family].append(config.lr)
        of_heads[family].append(config.lr * config.head_lr_ratio)
    with_stream = {"ladder", "convolution"} | ({"full_convolution"} if name == "detection" else set())
    assert set(rates) == {"last", *with_stream}
    for family in with_stream:
        assert min(rates["last"]) < 1e-3 <= min(rates[family])
        assert max(rates["last"]) < max(rates[family]) / 2
        assert min(of_heads["last"]) < max(of_heads[family]), "heads have the same rates in all families"
        assert min(of_heads[family]) < max(of_heads["last"])


def test_the_search_for_boxes_begins_with_every_family() -> None:
    study = load_study("detection").study
    drawn = {config.side_network or study.side_network for config in surveyed_configs(study)}
    assert {params["side_network"] for params in study.enqueue} == drawn


@pytest.mark.parametrize("name", ["segmentation", "detection"])
def test_training_images_move_on_the_grid_of_tokens(name: str) -> None:
    study = load_study(name).study
    assert "crop" in str(study.augment)
    assert study.views > 1, "cached, so that an epoch does not run the backbone"


def test_heads_of_masks_read_all_stages() -> None:
    study = load_study("segmentation").study
    assert isinstance(study.stages, tuple)
    assert study.head_stages == len(study.stages)
