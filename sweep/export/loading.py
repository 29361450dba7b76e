"""Load an exported model."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sweep.errors import SweepError
from sweep.machine.checked_files import read_weights
from sweep.machine.settings import own_settings

if TYPE_CHECKING:  # timm takes seconds to import
    from backbones.frozen import FrozenBackbone
    from sweep.export.config import BackboneReference, ModelConfig
    from sweep.export.model import AdaptedModel


@own_settings()
def load_model(
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    backbone: str | None = None,
    study: str | Path | None = None,
) -> "AdaptedModel":
    """Load a model that `sweep export` wrote.

    Args:
        folder: What was given to `--to`.
        device: Where the model is to run.
        backbone: The file of the model's backbone and its function, `PATH.py:FUNCTION`, if it is the user's own; a file
            is never executed because a model names it.
        study: The study file, which is executed, if the side-network is one of its own.

    Returns:
        A module in eval mode that maps images `(B, 3, H, W)` or texts `(B, L)` to logits `(B, C)`; for a regression, to
        numbers in their own units; for segmentation, to logits of every pixel, `(B, C, H, W)`. It has `class_names` and
        `transform`:

            model = sweep.load_model("shipped")
            logits = model(model.transform(image).unsqueeze(0))  # or a text

    Raises:
        UsageError: The folder has no exported model, or one of a newer format.
        SweepError: A file is missing or damaged, or the backbone is not the one that the model was trained with.
    """
    from sweep.export.config import CONFIG_FILE, WEIGHTS_FILE, ModelConfig
    from sweep.export.model import assemble
    from sweep.side_networks.given import take_own_code

    if study is not None:
        take_own_code(study)
    folder = Path(folder)
    config = ModelConfig.read(folder)
    loaded = _backbone(folder, config, backbone)
    spec = config.side_network
    beside = (len(loaded.widths), loaded.n_prefix_tokens)
    same_tokens = spec.n_tokens in (0, loaded.tokens)  # 0: written before the number was
    same_shape = (spec.n_stages, spec.n_prefix_tokens) == beside and spec.stage_widths == tuple(loaded.widths)
    if not (same_shape and same_tokens):
        raise SweepError(
            f"{folder / CONFIG_FILE} is damaged: its side_network does not fit the backbone {loaded.name}; "
            f"export the model again"
        )
    path = folder / WEIGHTS_FILE
    weights = read_weights(path)
    states: list[dict[str, torch.Tensor]] = [{} for _ in config.members]
    try:
        for name, tensor in weights.items():
            _, number, own_name = name.split(".", maxsplit=2)
            states[int(number)][own_name] = tensor
        return assemble(loaded, config, states).to(device)
    except (ValueError, IndexError) as error:
        raise SweepError(f"{path} does not fit the {CONFIG_FILE} beside it; export the model again") from error


def _backbone(folder: Path, config: "ModelConfig", given: str | None) -> "FrozenBackbone":
    """The backbone, from the export where its weights are inside, else by its name."""
    from backbones import backbone_to_load, load_backbone
    from backbones.origin import architecture_of
    from backbones.protocol import Transform
    from backbones.sizes import recorded_size, transform_record
    from backbones.text_transform import TextInput
    from sweep.export.config import BACKBONE_FILE
    from sweep.machine.paths import default_cache_dir

    reference, path = config.backbone, folder / BACKBONE_FILE
    inside = path.is_file()
    named = backbone_to_load(reference.name, given)
    if inside and isinstance(config.transform, TextInput):
        backbone = _text_backbone(folder, reference, config.transform.max_tokens)
    else:
        backbone = load_backbone(
            architecture_of(named) if inside else named,
            group_size=reference.group_size,
            stages=reference.stages,
            **recorded_size(transform_record(config.transform)),
            cache_dir=default_cache_dir(),
            from_record=given is None,
        )
    if inside:
        try:
            backbone.take_weights(read_weights(path))
        except RuntimeError as error:
            raise SweepError(f"{path} is not a {reference.name}; export the model again") from error
    backbone.name = reference.name
    if isinstance(config.transform, Transform):
        backbone.transform = config.transform
    if backbone.fingerprint != reference.fingerprint:
        where = path if inside else f"{reference.name}, as it is available here,"
        raise SweepError(
            f"{where} has the fingerprint {backbone.fingerprint[:12]}…, but the model in {folder} was trained with "
            f"{reference.fingerprint[:12]}…, so its logits would be wrong. "
            + (
                "Export the model again"
                if inside
                else "On the machine of the run, export it with the backbone's weights"
            )
        )
    return backbone


def _text_backbone(folder: Path, reference: "BackboneReference", max_tokens: int) -> "FrozenBackbone":
    """Build the text backbone that the export describes, with random weights."""
    from backbones import Taps
    from backbones.text_models import built
    from sweep.export.config import BACKBONE_CONFIG_FILE, TOKENIZER_FILE

    try:
        described, tokenizer = (
            (folder / file).read_text(encoding="utf-8") for file in (BACKBONE_CONFIG_FILE, TOKENIZER_FILE)
        )
    except (OSError, ValueError) as error:
        raise SweepError(f"cannot read the backbone in {folder}: {error}; export the model again") from error
    taps = Taps(reference.group_size, reference.stages)
    return built(reference.name, described, tokenizer, taps=taps, max_tokens=max_tokens)
