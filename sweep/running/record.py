"""The records that a run writes: its configuration before the search, and its summary afterwards."""

import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbones.sizes import transform_record
from sweep.machine.conditions import processor_of, versions_of
from sweep.records.folder import RunFolder
from sweep.running.data_path import absolute_path
from sweep.running.ending import Ending, WallSeconds
from sweep.running.planner import Plan
from sweep.running.preparation import Prepared
from sweep.search.hypervolume import hypervolume
from sweep.search.search import Search, Winner
from sweep.search.storage_url import shown_url
from sweep.study.budget import Budget
from sweep.study.finding import LoadedStudy
from sweep.study.going_on import ASKED_AS_NOW
from sweep.tasks.targets import Target

PACKAGES = ("sweep", "torch", "torchvision", "timm", "optuna", "numpy", "numba", "pandas", "pillow")
TEXT_PACKAGES = ("transformers", "tokenizers")
"""Further packages that the features of texts depend on."""


def run_config(
    loaded: LoadedStudy,
    prepared: Prepared,
    folder: RunFolder,
    storage_url: str | None,
    budget: Budget,
    enqueued: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The configuration of a run: what was asked for, the data, the backbone, the processor and packages' versions."""
    data, backbone = prepared.data, prepared.backbone
    target = Target.of(data.task, data.train.labels)
    packages = (*PACKAGES, *TEXT_PACKAGES) if backbone.kind == "texts" else PACKAGES
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {
        "study": loaded.name,
        "study_file": str(loaded.path),
        "study_sha256": file_sha256(loaded.path),
        "command": [part.replace(storage_url, shown_url(storage_url)) for part in sys.argv]
        if storage_url
        else sys.argv,
        **loaded.study.declarations(),
        **ASKED_AS_NOW,
        "n_parallel": prepared.n_parallel or "auto",
        "device": str(prepared.device),
        "storage": shown_url(storage_url) if storage_url else None,
        "optuna_study": folder.path.resolve().name,
        "data_path": absolute_path(loaded.study.data),
        "budget": asdict(budget),
        "enqueued": [dict(params) for params in enqueued],
        "on_bad_image": prepared.on_bad_image,
        "kind": data.kind,
        "classes": list(data.class_names),
        "target": {"mean": list(target.mean), "std": list(target.std)},
        "data_notice": data.notice,
        "skipped_images": [asdict(skipped) for skipped in data.skipped],
        "files_left_aside": dict(data.left_aside),
        "splits": {name: {"images": s.n_images, "fingerprint": s.fingerprint} for name, s in splits.items()},
        "backbone_fingerprint": backbone.fingerprint,
        "transform": transform_record(backbone.transform),
        "augment_fingerprint": prepared.views.fingerprint,
        "sources": [],
        "processor": processor_of(prepared.device),
        "versions": versions_of(packages),
    }


def file_sha256(path: Path) -> str | None:
    """SHA-256 of a study's file; None for a study without a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def run_summary(
    search: Search,
    winner: Winner,
    ending: Ending,
    plan: Plan,
    seconds: WallSeconds,
    *,
    n_val_images: int,
    n_test_images: int,
    n_images_computed: int,
) -> dict[str, Any]:
    """The summary of a run: the winner, the linear-probe reference, how the search went, and its time."""
    record, records, retrained = winner.record, search.ledger.log.records, ending.retrained
    states = Counter(r.state for r in records)
    return {
        "winner": {
            "trial": record.trial,
            "params": record.params,
            "trainable_parameters": record.trainable_parameters,
            "val": {name.removeprefix("val_"): v for name, v in record.metrics.items() if name.startswith("val_")}
            | ending.val_error,
            "test": ending.test if retrained is None else retrained.winner,
        },
        "linear_probe": asdict(ending.probe) | ({} if retrained is None else {"test": retrained.linear_probe}),
        "tested": search.proposals.study.test,
        "retrained": retrained is not None,
        "ended": search.ended,
        "n_trials": {state.lower(): states[state] for state in ("COMPLETE", "PRUNED", "FAIL")},
        "n_repeats_dropped": search.proposals.n_dropped,
        "occupied_share": search.lanes.occupied_share,
        "hypervolume": hypervolume(search.proposals.optuna_study),
        "n_val_images": n_val_images,
        "n_test_images": n_test_images,
        "n_images_computed": n_images_computed,
        "configs_per_hour": 3600 * len(records) / seconds.search,
        "plan": asdict(plan),
        "wall_seconds": asdict(seconds),
    }
