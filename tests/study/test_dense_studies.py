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


def test_masks_are_learnt_from_views_and_early_blocks() -> None:
    study = load_study("segmentation").study
    assert (study.augment, study.views) == ("flip-crop", 8)
    assert study.stages == (1, 2, 4, 8)
    assert study.head_stages == len(study.stages), "heads read all of them"
