"""Describes a data set in one line, and warns about items that are in two splits."""

import logging

import numpy as np

from sweep.data.base import DataSet, Split
from sweep.tasks.inputs import one_of
from sweep.tasks.kinds import CLASSES, REGRESSION, SEGMENTATION, TASK_KINDS

logger = logging.getLogger(__name__)

MOST_SHOWN = 12
"""Largest number of classes, labels or targets that the line names."""


def summary(data: DataSet) -> str:
    """One line such as `classes: 2 (dress 63, hat 32); train 95, val 24, test 50`.

    A class or label has the number of its training images, or of its training boxes, or its share of the training
    pixels. A target has its range in the training set.
    """
    labels = data.train.labels
    if data.task == REGRESSION.name:
        ends = zip(labels.min(0).tolist(), labels.max(0).tolist(), strict=True)
        beside = [f"{low:.6g} to {high:.6g}" for low, high in ends]
    elif data.task == SEGMENTATION.name:
        pixels = labels.sum(0)
        beside = [f"{share:.1%}" for share in (pixels / pixels.sum()).tolist()]
    else:
        counts = np.bincount(labels, minlength=data.n_classes) if data.task == CLASSES.name else labels.sum(0)
        beside = list(map(str, counts.tolist()))
    named = [f"{name} {value}" for name, value in zip(data.class_names, beside, strict=True)]
    shown = ", ".join(named[:MOST_SHOWN]) + (", …" if len(named) > MOST_SHOWN else "")
    sizes = ", ".join(f"{split} {getattr(data, split).n_images}" for split in ("train", "val", "test"))
    return f"{TASK_KINDS[data.task].outputs}: {data.n_classes} ({shown}); {sizes}"


def warn_of_shared_items(data: DataSet) -> None:
    """Warn once if two splits contain images or texts that are equal byte for byte. This reads all of them."""
    first: dict[str, tuple[Split, int]] = {}
    shared: list[tuple[str, str]] = []
    for split in (data.train, data.val, data.test):
        if split.digester is None:
            return
        for index, digest in enumerate(split.digester()):
            seen, place = first.setdefault(digest, (split, index))
            if seen is not split:
                shared.append((seen.describe(place), split.describe(index)))
    if shared:
        logger.warning(
            "%d %s of %s are in two splits, byte for byte, such as %s and %s: metrics on val and test will look better "
            "than they are. Keep each %s in one split",
            len(shared),
            data.kind,
            data.name,
            *shared[0],
            one_of(data.kind),
        )
