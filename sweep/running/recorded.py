"""What a run's record names, loaded again: images and backbone, checked to be those that the run had."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from backbones import Backbone, backbone_to_load, load_backbone, recorded_stages
from backbones.sizes import recorded_size
from sweep.data import DataSet, OnBadImage, TableOptions, load_data
from sweep.errors import SweepError
from sweep.machine.checked_files import RESTORE
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.running.data_path import data_of_run
from sweep.running.settings import same_source
from sweep.study.augmentation import NONE
from sweep.study.lane_config import SHAPE_FIELDS
from sweep.tasks.targets import Target, recorded_target


def recorded_data(
    config: Mapping[str, Any], cache_dir: Path, *, splits: Iterable[str], moved_to: str | None = None
) -> DataSet:
    """The images of a run.

    Args:
        config: The run's record.
        cache_dir: Root of sweep's cache.
        splits: Names of the splits that have to be those of the run.
        moved_to: Where the images are now, if not where the record says.

    Raises:
        UsageError: There is no such data set.
        SweepError: The images are not those that the run saw.
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


def config_of_lane(config: Mapping[str, Any], lane: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record as it holds for one of its lanes: with the shape that the lane has.

    Args:
        config: The run's record.
        lane: The lane's configuration, as the trials table has it.

    Returns:
        The record with the lane's own `backbone`, `stages`, `batch_size` and so on, and with the fingerprints and the
        transform of the features that it reads. Versions before 0.4 had lanes of one shape only.
    """
    own = {name: lane[name] for name in SHAPE_FIELDS if lane.get(name) is not None}
    if own.get("augment") == NONE:
        own.setdefault("views", None)
    values = {**config, **own}
    sources = config.get("sources", [])
    return {**values, **next((source for source in sources if same_source(source, values)), {})}


def config_of_trial(results: Results, folder: RunFolder, trial: int) -> dict[str, Any]:
    """The record of a run as it holds for one of its trials; see `config_of_lane`.

    Raises:
        SweepError: The trials table is damaged.
    """
    if "lane_config" not in results.trials:  # of a version that had lanes of one shape only
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
    """What the outputs of a run's side-networks say.

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
        device: Where it is to run.
        given: By the user, the file of a backbone of their own and its function, `PATH.py:FUNCTION`.

    Raises:
        UsageError: There is no such backbone, or it is a file and was not given.
        SweepError: Its weights cannot be had, or are not those that the run had.
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
