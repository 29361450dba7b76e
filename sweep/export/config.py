"""`config.json` of an exported model: everything that is needed to build the model again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from PIL import Image

from backbones import recorded_stages
from backbones.protocol import Transform
from backbones.sizes import transform_record
from backbones.text_transform import TextInput
from sweep.errors import SweepError, UsageError
from sweep.machine.checked_files import read_json, require_entries
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig
from sweep.tasks.targets import OF_CLASSES, Target, recorded_target

FORMAT = "sweep model"
FORMAT_VERSION = 1

CONFIG_FILE = "config.json"
CARD_FILE = "README.md"
WEIGHTS_FILE = "model.safetensors"
BACKBONE_FILE = "backbone.safetensors"
BACKBONE_CONFIG_FILE, TOKENIZER_FILE = "backbone.json", "tokenizer.json"
"""The files beside the weights of a text backbone."""

ENTRIES: dict[str, type | UnionType] = {
    **dict.fromkeys(("backbone.name", "backbone.fingerprint"), str),
    **dict.fromkeys(("format_version", "backbone.group_size", "side_network.n_classes"), int),
    **dict.fromkeys(("members", "class_names"), list),
    **dict.fromkeys(("transform", "side_network", "training"), dict),
}
INTERPOLATIONS = tuple(name.lower() for name in Image.Resampling.__members__)
AGAIN = "; export the model again"

TORCH_EXPORT_FILE = "model.pt2"
ONNX_FILE = "model.onnx"


def recorded_transform(value: Mapping[str, Any]) -> Transform | TextInput:
    """Read a backbone's transform from its recorded JSON object.

    Raises:
        KeyError: An entry is missing.
        TypeError: There is an unknown entry, or one of another type.
        ValueError: An entry is out of range.
    """
    if "max_tokens" in value:
        return TextInput(**value)
    transform = Transform(**{**value, "mean": tuple(value["mean"]), "std": tuple(value["std"])})
    for name, numbers in (("mean", transform.mean), ("std", transform.std)):
        if len(numbers) != 3 or not all(isinstance(number, int | float) and abs(number) < 1e6 for number in numbers):
            raise ValueError(f"{name} is {str(numbers)[:40]}, not one number for each of three colours")
    if transform.crop_pct is not None and not 0 < transform.crop_pct <= 1:
        raise ValueError(f"crop_pct is {str(transform.crop_pct)[:40]}, not a share of the image")
    if transform.interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation is {str(transform.interpolation)[:40]!r}, not one of {INTERPOLATIONS}")
    return transform


@dataclass(frozen=True)
class BackboneReference:
    """The backbone that the side-networks were trained with.

    Attributes:
        name: The name for `load_backbone`.
        fingerprint: SHA-256 over its weights.
        group_size: `g`, the number of blocks between two stages.
        stages: The stages that were given instead of `group_size`; see `backbones.Taps`.
    """

    name: str
    fingerprint: str
    group_size: int
    stages: int | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Member:
    """One side-network of the model.

    Attributes:
        trial: Number of the trial.
        rank: The rank `r` of its modules.
        hyperparameters: The hyperparameters it was trained with, for information.
        lane_config: What a side-network of the study's own is built from; None for others.
    """

    trial: int
    rank: int
    hyperparameters: dict[str, Any]
    lane_config: dict[str, Any] | None = None

    @property
    def config(self) -> LaneConfig | None:
        """`lane_config` as the side-network takes it.

        Raises:
            UsageError: It is out of range.
            TypeError: It has an unknown entry.
        """
        return None if self.lane_config is None else LaneConfig(**self.lane_config)


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of an exported model.

    Attributes:
        backbone: The backbone that feeds the side-networks.
        transform: How an image becomes the backbone's input; for a text backbone, the properties of that transform.
        side_network: The shape of all side-networks.
        members: The side-networks.
        class_names: The `C` names of the classes, labels or targets, in the order of the logits.
        training: How the model was trained: study, data, command and versions, for information.
        target: How the outputs are to be read.
    """

    backbone: BackboneReference
    transform: Transform | TextInput
    side_network: SideNetworkSpec
    members: tuple[Member, ...]
    class_names: tuple[str, ...]
    training: dict[str, Any]
    target: Target = OF_CLASSES

    def as_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        also = {
            "target": {"task": self.target.kind.name, "mean": self.target.mean, "std": self.target.std},
            "transform": transform_record(self.transform),
            "side_network": self.side_network.as_saved(),
        }
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self), **also}

    @classmethod
    def read(cls, folder: Path) -> "ModelConfig":
        """Read an exported model's configuration.

        Raises:
            UsageError: The folder has no exported model, or one of a newer format.
            SweepError: The file is damaged.
        """
        path = folder / CONFIG_FILE
        value = read_json(path) if path.is_file() else {}
        if value.get("format") != FORMAT:
            if "study" in value:
                raise UsageError(
                    f"{folder} has no exported model, it is the folder of a run; make one with sweep export {folder} "
                    f"--to DIR, and give DIR"
                )
            raise UsageError(f"{folder} has no exported model; make one with sweep export RUN --to {folder}")
        require_entries(path, value, ENTRIES, AGAIN)
        if value["format_version"] != FORMAT_VERSION:
            raise UsageError(
                f"{path} has format version {value['format_version']}, and this sweep reads {FORMAT_VERSION}; "
                f"load it with a newer sweep"
            )
        names = value["class_names"]
        try:
            if not all(isinstance(name, str) for name in names) or len(names) != value["side_network"]["n_classes"]:
                raise ValueError(f"class_names are {str(names)[:40]}")
            return cls(
                backbone=BackboneReference(
                    **{**value["backbone"], "stages": recorded_stages(value["backbone"].get("stages"))}
                ),
                transform=recorded_transform(value["transform"]),
                side_network=SideNetworkSpec(**value["side_network"]),
                members=tuple(Member(**member) for member in value["members"]),
                class_names=tuple(names),
                training=value["training"],
                target=recorded_target(value.get("target", {}), len(names)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SweepError(f"{path} is damaged: {error}{AGAIN}") from error
