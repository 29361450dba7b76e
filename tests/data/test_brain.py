"""The packaged brain slices: which split each slice is in, and how the labels follow from the template."""

from pathlib import Path

import numpy as np

from sweep.data import load_data
from sweep.data.brain import BACKGROUND, CLASS_NAMES, GREY, OTHER, WHITE, tissues


def test_labels_are_the_most_probable_tissue() -> None:
    t1, grey, white = (
        np.array(values, dtype=np.uint8).reshape(1, 1, -1)
        for values in ([0, 9, 9, 9, 9], [200, 200, 40, 60, 0], [0, 30, 180, 70, 0])
    )
    assert tissues(t1, grey, white).ravel().tolist() == [BACKGROUND, GREY, WHITE, OTHER, OTHER]


def test_no_two_splits_have_neighbouring_slices(cache_dir: Path) -> None:
    data = load_data("brain-slices", seed=0, cache_dir=cache_dir)
    splits = {"train": data.train, "val": data.val, "test": data.test}
    places = {
        name: {int(split.source(index).split()[-1]) for index in range(split.n_images)}
        for name, split in splits.items()
    }
    for name, own in places.items():
        others = set().union(*(there for other, there in places.items() if other != name))
        assert min(abs(a - b) for a in own for b in others) == 3
    for split in splits.values():
        assert (split.labels.sum(1) == 233 * 233).all()
        assert (split.labels > 0).all(0).sum() >= len(CLASS_NAMES) - 1
        image, mask = np.asarray(split.open(5)), np.asarray(split.masks(5))
        assert ((mask == BACKGROUND) == (image == 0)).all()
        assert image[mask == WHITE].mean() > image[mask == GREY].mean() > image[mask == OTHER].mean()
