"""Uploads an exported model to the Hugging Face hub, with the metadata in its card that the hub reads."""

import re
from pathlib import Path
from typing import Any

from sweep.errors import SweepError, UsageError
from sweep.export.config import CARD_FILE
from sweep.records.results import Results
from sweep.tasks.inputs import kind_of
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, TaskKind

REPOSITORY = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
REMEDY = 'python -m pip install -e ".[hub]"'
METRIC_TYPES = {"top1": "accuracy", "map": "mean_average_precision", "r2": "r2"}
"""The hub's names of sweep's scores."""


def require_hub(repository: str) -> None:
    """Check the repository's name and the installation before a model is written.

    Raises:
        UsageError: The name cannot be that of a repository.
        SweepError: huggingface_hub is not installed.
    """
    if REPOSITORY.fullmatch(repository) is None:
        raise UsageError(f"--push must be a repository on the hub such as me/coins, not {repository!r}")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise SweepError(f"--push needs huggingface_hub: {REMEDY}") from error


def card_metadata(results: Results, *, was_measured: bool) -> str:
    """The YAML metadata at the beginning of a model card on the hub.

    Args:
        results: The run that the model comes from.
        was_measured: Whether the run measured the model on test.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config, kind = results.config, results.kind
    task = pipeline_tag(kind, kind_of(config))
    measured: list[Any] = []
    if was_measured:
        measured = [
            EvalResult(
                task_type=task or "other",
                dataset_type="custom",
                dataset_name=str(config["data"]),
                dataset_split="test",
                metric_type=METRIC_TYPES[kind.score],
                metric_name=kind.metrics[kind.score],
                metric_value=results.summary["winner"]["test"][kind.score],
            )
        ]
    data = ModelCardData(
        library_name="sweep",
        pipeline_tag=task,
        tags=["sweep", "last", "side-tuning", "frozen-backbone", kind.name],
        model_name=str(config["study"]) if measured else None,
        eval_results=measured or None,
        ignore_metadata_errors=False,
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def pipeline_tag(kind: TaskKind, items: str) -> str | None:
    """The hub's name of a kind of task; None if it has none."""
    if kind not in (CLASSES, MULTI_LABEL):
        return None
    return "text-classification" if items == "texts" else "image-classification"


def push_model(folder: Path, repository: str, metadata: str, *, api: Any = None) -> str:
    """Upload an exported model. A missing repository is created as private. The card on disk does not change.

    The metadata have no licence: you have to choose it, and the licence of the backbone's weights applies to them.

    Args:
        folder: Folder of the exported model.
        repository: `me/name`, or `name` for the account that is logged in.
        metadata: The result of `card_metadata`.
        api: A `huggingface_hub.HfApi`; if not given, a new one.

    Returns:
        The repository's address.

    Raises:
        SweepError: The hub refuses or cannot be reached. The model in `folder` is complete.
    """
    import huggingface_hub

    hub = api or huggingface_hub.HfApi(library_name="sweep")
    card = metadata + (folder / CARD_FILE).read_text(encoding="utf-8")
    try:
        made = hub.create_repo(repository, private=True, exist_ok=True)
        repo_id = made.repo_id
        hub.upload_folder(
            repo_id=repo_id, folder_path=str(folder), ignore_patterns=[CARD_FILE], commit_message="Model from sweep"
        )
        hub.upload_file(
            repo_id=repo_id,
            path_or_fileobj=card.encode(),
            path_in_repo=CARD_FILE,
            commit_message="Model card from sweep",
        )
    except (huggingface_hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SweepError(
            f"cannot push to {repository}: {reason}. The model in {folder} is whole. Log in by hf auth login, then: "
            f"hf upload {repository} {folder}"
        ) from error
    return str(made)
