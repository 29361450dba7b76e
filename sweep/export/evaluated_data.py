"""Labelled data for an exported model: chooses the split, and puts its labels in the order of the model's classes."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from backbones.text_transform import TextInput
from sweep.data import DATA_SETS, DataSet, OnBadImage, Split, TableOptions, load_data
from sweep.data.base import AnyLabels
from sweep.data.boxes import Boxes
from sweep.data.files import some_of
from sweep.data.table import AS_IT_IS
from sweep.errors import UsageError
from sweep.export.config import ModelConfig
from sweep.tasks.inputs import one_of
from sweep.tasks.kinds import CLASSES, REGRESSION
from sweep.tasks.label_maps import IGNORED

logger = logging.getLogger(__name__)

SplitChoice = Literal["train", "val", "test", "all"]
NAMED = ("train", "val", "test")


@dataclass(frozen=True)
class EvaluatedData:
    """The data that a model is measured on.

    Attributes:
        name: Name of the data set.
        part: The split that is measured, or `"all"`.
        split: The images or texts.
        labels: Labels as in `Split`, numbered as the model numbers its classes.
        of_the_run: Whether these are the data that the model was trained and chosen on.
    """

    name: str
    part: str
    split: Split
    labels: AnyLabels
    of_the_run: bool


def evaluated_data(
    config: ModelConfig,
    spec: str,
    *,
    split: SplitChoice | None,
    cache_dir: Path,
    on_bad_image: OnBadImage = "error",
    accept_licence: str | None = None,
    table: TableOptions = AS_IT_IS,
) -> EvaluatedData:
    """Read labelled data as `sweep run` reads them, but do not split data that come without splits.

    If the data are those that the model was trained on, they are split as they were for the run, so that the test split
    is the same.

    Args:
        config: Configuration of the exported model.
        spec: The data, as `--data` takes them.
        split: The split to measure; if not given, the test split if there is one, and otherwise everything.
        cache_dir: Root of sweep's cache.
        on_bad_image: What to do with an image that cannot be read.
        accept_licence: As `load_data`.
        table: As `load_data`.

    Raises:
        UsageError: There are no such data, they are of another kind than the model's, they have classes that the model
            does not know, or they do not have the split.
        SweepError: A file is damaged, or an image cannot be read.
    """
    task = config.target.kind.name
    options: dict[str, Any] = {
        "cache_dir": cache_dir,
        "on_bad_image": on_bad_image,
        "task": None if spec in DATA_SETS else task,
        "accept_licence": accept_licence,
        "table": table,
    }
    data = load_data(spec, seed=None, **options)
    reads = "texts" if isinstance(config.transform, TextInput) else "images"
    if data.kind != reads:
        raise UsageError(f"{spec} holds {data.kind}, but the model reads {reads}")
    if data.task != task:
        raise UsageError(f"{spec} makes a task of the kind {data.task}, but the model was trained for {task}")
    own = _as_in_the_run(config.training, spec, data, options)
    of_the_run = own is not None
    data = own or data
    splits = [getattr(data, name) for name in NAMED if getattr(data, name).n_images]
    if split is None:
        split = "test" if data.test.n_images else "all"
    if split == "all":
        chosen = splits[0]
        for other in splits[1:]:
            chosen = chosen.joined(other)
    else:
        chosen = getattr(data, split)
    if not chosen.n_images:
        raise UsageError(f"{spec} has no {split} {data.kind}; leave --split out, or give all")
    if of_the_run and split != "test":
        logger.warning(
            "%s has the %s that the model was trained and chosen on; on them it looks better than it is. Leave --split "
            "out to measure it on the test split",
            spec,
            data.kind,
        )
    if not of_the_run and spec not in DATA_SETS and Path(spec).name == Path(str(config.training.get("data"))).name:
        logger.warning(
            "%s has the name of the data that the model was trained on, but does not hold the same %s. If training %s "
            "are among them, the model looks better than it is",
            spec,
            data.kind,
            data.kind,
        )
    whole = len(splits) == 1 and not of_the_run
    labels = _renumbered(config, data, chosen.labels, spec)
    if chosen.masks is not None and data.class_names != config.class_names:
        chosen = replace(chosen, masks=_renumbered_masks(chosen.masks, data.class_names, config.class_names))
    if chosen.boxes is not None and data.class_names != config.class_names:
        chosen = replace(chosen, boxes=_renumbered_boxes(chosen.boxes, data.class_names, config.class_names))
    return EvaluatedData(data.name, "all" if whole else split, chosen, labels, of_the_run)


def _as_in_the_run(training: Mapping[str, Any], spec: str, data: DataSet, options: dict[str, Any]) -> DataSet | None:
    """The data split as they were for the model's run; None if they are other data."""
    seed, splits = training.get("seed"), training.get("splits")
    if not isinstance(seed, int) or not isinstance(splits, dict):
        return None
    recorded = {name: splits[name] for name in NAMED if isinstance(splits.get(name), dict)}
    n_images = sum(getattr(data, name).n_images for name in NAMED)
    if n_images != sum(entry["images"] for entry in recorded.values() if isinstance(entry.get("images"), int)):
        return None  # so that other data are not read twice
    try:
        again = load_data(spec, seed=seed, **options)
    except UsageError:  # they cannot be split
        return None
    fingerprints = {name: entry.get("fingerprint") for name, entry in recorded.items()}
    same = all(getattr(again, name).fingerprint == fingerprints.get(name) for name in NAMED)
    return again if same else None


def _renumbered(config: ModelConfig, data: DataSet, labels: AnyLabels, spec: str) -> AnyLabels:
    """Labels in the order of the model's classes, found by name.

    Raises:
        UsageError: The data have a class, label or target that the model does not know.
    """
    names, kind = config.class_names, config.target.kind
    if data.class_names == names:
        return labels
    if kind is REGRESSION:
        if len(names) == 1 and len(data.class_names) == 1:
            return labels
        if set(names) != set(data.class_names):
            raise UsageError(
                f"{spec} has the targets {', '.join(data.class_names)}, and the model predicts {', '.join(names)}"
            )
        return np.stack([labels[:, data.class_names.index(name)] for name in names], axis=1)
    present = np.bincount(labels, minlength=data.n_classes) if kind is CLASSES else labels.sum(0)
    used = [name for name, count in zip(data.class_names, present.tolist(), strict=True) if count]
    if unknown := [name for name in used if name not in names]:
        raise UsageError(
            f"{spec} has {kind.outputs} that the model does not know: {some_of(unknown)}. The model knows "
            f"{some_of(names)}; give them the same names"
        )
    if kind is CLASSES:
        numbers = [names.index(name) if name in names else 0 for name in data.class_names]
        renumbered: np.ndarray = np.array(numbers, dtype=np.int64)[labels]
        return renumbered
    found = np.zeros((len(labels), len(names)), dtype=np.int64)
    for place, name in enumerate(data.class_names):
        if name in names:
            found[:, names.index(name)] = labels[:, place]
    if missing := [name for name in names if name not in data.class_names]:
        logger.warning(
            "%s does not mention %s, so no %s counts as having it", spec, some_of(missing), one_of(data.kind)
        )
    return found


def _renumbered_masks(
    masks: Callable[[int], Image.Image], own: tuple[str, ...], names: tuple[str, ...]
) -> Callable[[int], Image.Image]:
    """Masks whose values are classes in the order of the model's."""
    numbers = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
    for place, name in enumerate(own):
        if name in names:
            numbers[place] = names.index(name)
    return lambda index: Image.fromarray(numbers[np.asarray(masks(index))])


def _renumbered_boxes(
    boxes: Callable[[int], Boxes], own: tuple[str, ...], names: tuple[str, ...]
) -> Callable[[int], Boxes]:
    """Boxes with classes in the order of the model's. Those of other classes, which are all ignored, are left out."""
    numbers = np.array([names.index(name) if name in names else -1 for name in own], dtype=np.int64)

    def of_image(index: int) -> Boxes:
        found = boxes(index)
        classes = numbers[found.classes]
        kept = classes >= 0
        return Boxes(found.size, classes[kept], found.corners[kept], found.ignored[kept])

    return of_image
