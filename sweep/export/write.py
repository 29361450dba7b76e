"""Write a run's winner as a model: weights, configuration and model card."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from backbones import backbone_to_load, load_backbone, recorded_stages
from backbones.frozen import FrozenBackbone
from backbones.sizes import recorded_size, transform_record
from backbones.text_backbone import TextBackbone
from sweep.errors import SweepError, UsageError
from sweep.export.card import model_card
from sweep.export.config import (
    BACKBONE_CONFIG_FILE,
    BACKBONE_FILE,
    CARD_FILE,
    CONFIG_FILE,
    ONNX_FILE,
    TOKENIZER_FILE,
    TORCH_EXPORT_FILE,
    WEIGHTS_FILE,
    BackboneReference,
    Member,
    ModelConfig,
    recorded_transform,
)
from sweep.export.graph import require_onnx, write_onnx, write_torch_export
from sweep.export.model import AdaptedModel, assemble
from sweep.export.selection import Chosen, choose
from sweep.machine.checked_files import RESTORE
from sweep.machine.paths import save_weights
from sweep.machine.settings import own_settings
from sweep.records.entries import require_config
from sweep.records.folder import RunFolder
from sweep.records.results import Results, load_results
from sweep.records.tested import was_retrained, was_tested
from sweep.running.recorded import config_of_trial, target_of_run
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.augmentation import described
from sweep.study.folds import recorded_folds

SHARED = ("backbone", "backbone_fingerprint", "group_size", "stages", "transform")
"""Entries of a run's record that all members of one model have in common."""

RECORDED = ("study", "command", "data", "data_notice", "splits", "epochs", "batch_size", "seed", "versions")


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        folder: The folder of the model.
        trials: The numbers of the trials in the model.
        retrained: Whether it is the winner trained again on train and val.
        differences: For each graph file, the largest difference between its logits and the model's.
    """

    folder: Path
    trials: tuple[int, ...]
    retrained: bool
    differences: dict[str, float]

    def measured_on_test(self, results: Results) -> bool:
        """Whether the run measured this very model on test: its winner, with the weights of its last training."""
        summary = results.summary
        is_winner = bool(summary) and self.trials == (summary["winner"]["trial"],)
        return is_winner and was_tested(summary) and self.retrained == was_retrained(summary)


@own_settings()
def export_run(
    run: Path,
    to: Path,
    *,
    trial: int | None = None,
    ensemble: str | None = None,
    with_backbone: bool = True,
    torch_export: bool = False,
    onnx: bool = False,
    backbone_file: str | None = None,
    cache_dir: Path,
) -> Exported:
    """Write a run's winner, another of its trials, or several together, as a model that `load_model` reads.

    Args:
        run: A run folder.
        to: The folder to make; it appears whole or not at all.
        trial: A trial's number; the winner if not given.
        ensemble: `"topK"` for the K best trials behind one backbone, `"pareto"` for the Pareto front's.
        with_backbone: Whether the backbone's weights go inside. Without them loading fetches them again.
        torch_export: Whether to write a `torch.export` program as well.
        onnx: Whether to write ONNX as well.
        backbone_file: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was the user's own.
        cache_dir: Root of sweep's cache.

    Raises:
        UsageError: `to` is not empty, there is no such trial, or its weights were not kept.
        SweepError: The backbone differs from that of the run, a graph cannot be made or computes something else, or a
            file is damaged.
    """
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise UsageError(f"{to} is not empty; choose another folder with --to, or remove it")
    if onnx:
        require_onnx()
    folder = RunFolder.open(run)
    results = load_results(run)
    spec, chosen = choose(results, folder, trial=trial, ensemble=ensemble)
    config = model_config(results, folder, spec, chosen)
    needs_backbone = with_backbone or torch_export or onnx
    backbone = _backbone(config, folder, cache_dir, backbone_file) if needs_backbone else None
    weights = {
        f"side_networks.{number}.{name}": tensor
        for number, c in enumerate(chosen)
        for name, tensor in c.weights.state.items()
    }
    differences: dict[str, float] = {}

    def fill(partial: Path) -> None:
        (partial / CONFIG_FILE).write_text(json.dumps(config.as_json(), indent=2) + "\n", encoding="utf-8")
        save_weights(weights, partial / WEIGHTS_FILE)
        if backbone is not None:
            if with_backbone:
                save_weights(_own(backbone.network.state_dict()), partial / BACKBONE_FILE)
                if isinstance(backbone, TextBackbone):
                    (partial / BACKBONE_CONFIG_FILE).write_text(backbone.config_json, encoding="utf-8")
            if isinstance(backbone, TextBackbone):  # a graph needs it too
                (partial / TOKENIZER_FILE).write_text(backbone.tokenizer_json, encoding="utf-8")
            model = assemble(backbone, config, [c.weights.state for c in chosen])
            if torch_export:
                differences[TORCH_EXPORT_FILE] = write_torch_export(model, partial / TORCH_EXPORT_FILE)
            if onnx:
                differences[ONNX_FILE] = write_onnx(model, partial / ONNX_FILE)
        card = model_card(config, results, chosen, with_backbone=with_backbone, differences=differences)
        (partial / CARD_FILE).write_text(card, encoding="utf-8", errors="backslashreplace")

    _make_folder(to, fill)
    trials = tuple(member.trial for member in config.members)
    return Exported(to, trials, config.training["retrained"], differences)


@own_settings()
def model_of_run(run: Path, *, trial: int | None, cache_dir: Path, backbone_file: str | None = None) -> AdaptedModel:
    """A trial of a run as a model, without an export; arguments and errors as `export_run`."""
    folder = RunFolder.open(run)
    results = load_results(run)
    spec, chosen = choose(results, folder, trial=trial, ensemble=None)
    config = model_config(results, folder, spec, chosen)
    return assemble(_backbone(config, folder, cache_dir, backbone_file), config, [c.weights.state for c in chosen])


def model_config(results: Results, folder: RunFolder, spec: SideNetworkSpec, chosen: Sequence[Chosen]) -> ModelConfig:
    """Build the configuration of an exported model.

    Args:
        results: The run's tables.
        folder: The run's folder, for messages.
        spec: The shape of its side-networks.
        chosen: The trials in the model.

    Raises:
        UsageError: The members do not share a backbone and the structure of their side-networks.
        SweepError: The run's record is damaged.
    """
    require_config(folder, results.config)
    of_trials = [config_of_trial(results, folder, c.weights.trial) for c in chosen]
    recorded, *others = of_trials or [results.config]
    alike = [replace(c.weights.spec, max_rank=1) for c in chosen]
    if len(set(alike)) > 1 or any(other.get(name) != recorded.get(name) for other in others for name in SHARED):
        raise UsageError(
            f"trials {', '.join(str(c.weights.trial) for c in chosen)} of {folder.path} differ in backbone, stages "
            f"or side-network, so they cannot share one model; export them one by one with --trial"
        )
    try:
        transform = recorded_transform(recorded["transform"])
    except (KeyError, TypeError, ValueError) as error:
        raise SweepError(f"{folder.config_path} is damaged: its transform: {error}{RESTORE}") from error
    return ModelConfig(
        backbone=BackboneReference(
            recorded["backbone"],
            recorded["backbone_fingerprint"],
            recorded["group_size"],
            recorded_stages(recorded.get("stages")),
        ),
        transform=transform,
        side_network=spec,
        members=tuple(_member(c) for c in chosen),
        class_names=tuple(recorded["classes"]),
        training={
            **{name: recorded[name] for name in RECORDED},
            "study_file": Path(recorded["study_file"]).name,  # its folder is nobody else's business
            "study_sha256": recorded.get("study_sha256"),  # runs of the first version lack it
            "images": described(recorded),
            "class_weights": recorded.get("class_weights"),
            "retrained": any(c.retrained for c in chosen),
            "folds": recorded_folds(recorded)[0],
        },
        target=target_of_run(results, folder),
    )


def _member(chosen: Chosen) -> Member:
    weights = chosen.weights
    lane_config = None if weights.config is None else weights.config.as_recorded()
    return Member(weights.trial, weights.rank, chosen.hyperparameters, lane_config)


def _backbone(config: ModelConfig, folder: RunFolder, cache_dir: Path, backbone_file: str | None) -> FrozenBackbone:
    backbone = load_backbone(
        backbone_to_load(config.backbone.name, backbone_file),
        group_size=config.backbone.group_size,
        stages=config.backbone.stages,
        **recorded_size(transform_record(config.transform)),
        cache_dir=cache_dir,
        from_record=backbone_file is None,
    )
    if backbone.fingerprint != config.backbone.fingerprint:
        raise SweepError(
            f"the backbone {config.backbone.name} that is available here differs from the one of the run "
            f"{folder.path}: its fingerprint is {backbone.fingerprint[:12]}…, not {config.backbone.fingerprint[:12]}…"
        )
    return backbone


def _own(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors so that they share no memory, as safetensors requires."""
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


def _make_folder(to: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder beside `to`, then rename it."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
        try:
            fill(partial)
            partial.chmod(0o755)
            for file in partial.iterdir():  # safetensors makes files that only the owner can read
                file.chmod(0o644)
            os.replace(partial, to)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise SweepError(f"cannot write {to}: {error.strerror or error}; choose another folder with --to") from error
