"""Loads the data and the backbone that a run's record names, and checks that they are those that the run had."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from backbones import Backbone, backbone_to_load, load_backbone, recorded_stages
from backbones.sizes import recorded_size
from sweep.data import DataSet, OnBadImage, Split, TableOptions, load_data
from sweep.errors import SweepError
from sweep.features.views import TrainingViews
from sweep.machine.checked_files import RESTORE
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.running.data_path import data_of_run
from sweep.running.settings import same_source
from sweep.study.augmentation import NONE
from sweep.study.declaration import Study
from sweep.study.lane_config import SHAPE_FIELDS
from sweep.tasks.targets import Target, recorded_target


def recorded_data(
    config: Mapping[str, Any], cache_dir: Path, *, splits: Iterable[str], moved_to: str | None = None
) -> DataSet:
    """The data of a run.

    Args:
        config: The run's record.
        cache_dir: Root of sweep's cache.
        splits: Names of the splits to check.
        moved_to: Where the data are now, if not where the record says.

    Raises:
        UsageError: There is no such data set.
        SweepError: A checked split is not the one that the run saw.
    """
    name = data_of_run(config, moved_to)
    on_bad_image: OnBadImage = "skip" if config.get("skipped_images") else "error"
    data = load_data(
        name,
        seed=config["seed"],
        cache_dir=cache_dir,
        on_bad_image=on_bad_image,
        task=config.get("task"),
        accept_licence=config.get("accept_licence"),
        table=TableOptions.of(config),
    )
    for split in splits:
        if getattr(data, split).fingerprint != config["splits"][split]["fingerprint"]:
            raise SweepError(f"the {split} {data.kind} of {name} are not those that the run saw")
    return data


def recorded_resize(config: Mapping[str, Any]) -> Any:
    """How a run resized images that are not square. Runs before version 0.5 only recorded their transform."""
    return config.get("resize") or recorded_size(config["transform"]).get("resize")


def config_of_lane(config: Mapping[str, Any], lane: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record for one of its lanes: the lane's shape replaces that of the run.

    Args:
        config: The run's record.
        lane: The lane's configuration, as the trials table has it.

    Returns:
        The record with the lane's own `backbone`, `stages`, `batch_size` and so on, and with the fingerprints and the
        transform of the features that it reads. Before version 0.4, all lanes of a run had one shape.
    """
    values = {**config, **{name: lane[name] for name in SHAPE_FIELDS if lane.get(name) is not None}}
    if values.get("augment") == NONE:
        values["views"] = None
    sources = config.get("sources", [])
    return {**values, **next((source for source in sources if same_source(source, values)), {})}


def config_of_trial(results: Results, folder: RunFolder, trial: int) -> dict[str, Any]:
    """The record of a run for one of its trials; see `config_of_lane`.

    Raises:
        SweepError: The trials table is damaged.
    """
    if "lane_config" not in results.trials:  # a version in which all lanes have one shape
        return dict(results.config)
    recorded = results.trials.loc[results.trials["trial"] == trial, "lane_config"]
    try:
        lane = json.loads(recorded.iloc[0])
        return config_of_lane(results.config, lane)
    except (IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SweepError(
            f"{folder.trials_path} is damaged: the lane_config of trial {trial}: {error}{RESTORE}"
        ) from error


def target_of_run(results: Results, folder: RunFolder) -> Target:
    """The target of a run: what the outputs of its side-networks mean.

    Raises:
        SweepError: The record is damaged.
    """
    config = results.config
    try:
        return recorded_target({**config.get("target", {}), "task": results.kind.name}, len(config["classes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise SweepError(f"{folder.config_path} is damaged: its target: {error}{RESTORE}") from error


def recorded_backbone(
    config: Mapping[str, Any], cache_dir: Path, device: torch.device | str = "cpu", *, given: str | None = None
) -> Backbone:
    """The backbone of a run, on a device.

    Args:
        config: The run's record.
        cache_dir: Root of sweep's cache.
        device: Device to load it on.
        given: The user's own backbone, as `PATH.py:FUNCTION`, if the user gives one.

    Raises:
        UsageError: There is no such backbone, or it is a file and the user did not give it.
        SweepError: Its weights cannot be loaded, or are not those that the run had.
    """
    backbone = load_backbone(
        backbone_to_load(config["backbone"], given),
        group_size=config["group_size"],
        stages=recorded_stages(config.get("stages")),
        **recorded_size(config["transform"]),
        cache_dir=cache_dir,
        device=device,
        from_record=given is None,
    )
    if backbone.fingerprint != config["backbone_fingerprint"]:
        raise SweepError(f"the backbone {config['backbone']} is not the one that the run had")
    return backbone


def recorded_views(study: Study, train: Split, transform: Any, config: Mapping[str, Any]) -> TrainingViews:
    """The views of the training images that a run had, of a study as its record declares it.

    Raises:
        SweepError: Its augmentation gives other images than it did in the run.
    """
    views = TrainingViews.of(study, train, transform)
    if views.fingerprint != config.get("augment_fingerprint"):
        raise SweepError(
            f"the augmentation {study.augment} gives other images than it did in the run; install the versions of "
            f"torchvision and Pillow that the run's config.json names"
        )
    return views
