"""Several runs side by side: what differs between them, and a paired test of their winners on the same test images."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones import is_path
from sweep.errors import SweepError, UsageError
from sweep.export.selection import winner_of
from sweep.records.entries import require_config, require_summary
from sweep.records.folder import RunFolder
from sweep.records.paired import Difference, mcnemar_p_value, normal_p_value, paired_difference
from sweep.records.results import Results, load_results
from sweep.records.tested import was_tested
from sweep.report.evidence import answers_of
from sweep.study import folds, structure
from sweep.tasks.kinds import CLASSES, TaskKind

OF_THE_BACKBONE = ("backbone", "group_size", "stages", "image_size", "max_tokens")
"""Settings of a backbone: runs with the same values have the same backbone."""
OF_THE_METHOD = (
    *("study", "study_sha256", "data", "trials", "epochs", "batch_size", "max_rank", "modules_per_block", "pool"),
    *("precision", "augment", "views", "cache", "objectives", "sampler", "halving", "seeds", "seed"),
    *("resize", "class_weights", "label_words", "retrain", "folds", "repeats"),
    *("side_network", "attention", "mlp", "read_out", "parts", "head_stages", "head_cells"),
)
"""Other settings in which runs may differ."""
UNDECLARED = {**folds.UNDECLARED, **structure.UNDECLARED}
"""Settings that versions did not record which had only these values."""
SHA_LENGTH = 8


@dataclass(frozen=True)
class ComparedRun:
    """A run among others.

    Attributes:
        name: Name of its folder, or its path if two folders have the same name.
        results: Its tables.
        winner: The number of the trial that is ranked first.
        folder: Its folder.
    """

    name: str
    results: Results
    winner: int
    folder: RunFolder

    @property
    def backbone(self) -> tuple[str, ...]:
        """The settings that go with its backbone."""
        return tuple(str(self.setting(name)) for name in OF_THE_BACKBONE)

    @property
    def method(self) -> tuple[str, ...]:
        """All its other settings."""
        return tuple(str(self.setting(name)) for name in OF_THE_METHOD)

    def setting(self, name: str) -> Any:
        """The value of a setting; None if it is off, or if the run's version did not have it."""
        value = self.results.config.get(name, UNDECLARED.get(name))
        return None if value is False else value


@dataclass(frozen=True)
class PairedTest:
    """Difference between a run (or a method over several backbones) and the reference, on the same test images.

    Attributes:
        name: Name of the run or method.
        reference: Name of the reference.
        n_backbones: Number of backbones over which both sides were averaged, image by image.
        n_images: Number of test images.
        difference: Mean difference of the scores per image, with its 95% interval over images.
        p_value: P-value of no difference: exact (McNemar) for two classifiers, else by the normal distribution.
    """

    name: str
    reference: str
    n_backbones: int
    n_images: int
    difference: Difference
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        runs: The runs in the given order. The others are compared with the first.
        differing: Settings in which they differ, each with the values of all runs.
        tests: Each run compared with the first, then each method compared with the first over their common backbones.
        not_tested: Runs without a paired test, each with the reason.
    """

    runs: tuple[ComparedRun, ...]
    differing: Mapping[str, Sequence[str]]
    tests: tuple[PairedTest, ...] = ()
    not_tested: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> TaskKind:
        """The kind of task, which is the same for all runs."""
        return self.runs[0].results.kind


def compare_runs(
    paths: Sequence[Path], cache_dir: Path, *, data: str | None = None, backbone_file: str | None = None
) -> Comparison:
    """Put runs side by side.

    The winners are evaluated on the test images again, from the feature cache. No other trial is evaluated on them.

    Args:
        paths: Run folders, at least two; the first is the reference.
        cache_dir: Root of sweep's cache, for the features of the test images.
        data: Where the data of these runs are now, if not where their records say.
        backbone_file: The file of a backbone and its function, `PATH.py:FUNCTION`, for runs on a file of the user's.

    Raises:
        UsageError: There are fewer than two, a folder is not a run's, or their kinds of task differ.
        SweepError: A file is missing or damaged, or a run has no complete trial.
    """
    if len(paths) < 2:
        raise UsageError("a comparison needs at least two run folders")
    runs = tuple(_open(path, name) for path, name in zip(paths, _names(paths), strict=True))
    kinds = {run.results.kind.name for run in runs}
    if len(kinds) > 1:
        raise UsageError(f"these runs are of different kinds of task ({', '.join(sorted(kinds))}); compare one kind")
    answers, not_tested = _answers(runs, cache_dir, data, backbone_file)
    tests = (*_by_run(runs, answers), *_by_method(runs, answers)) if runs[0].name in answers else ()
    return Comparison(runs, _differing(runs), tests, not_tested)


def _names(paths: Sequence[Path]) -> list[str]:
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise UsageError("a run is given twice; give each run folder once")
    short = [path.name for path in resolved]
    return short if len(set(short)) == len(short) else [os.fspath(path) for path in paths]


def _open(path: Path, name: str) -> ComparedRun:
    folder = RunFolder.open(path)
    results = load_results(path)
    require_config(folder, results.config)
    if results.summary:
        require_summary(folder, results.summary, results.kind, results.kind.shown)
    return ComparedRun(name, results, winner_of(results, folder), folder)


def _differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    values = {name: [_shown(name, run.setting(name)) for run in runs] for name in _settings()}
    differing = {name: column for name, column in values.items() if len(set(column)) > 1}
    if "study" in differing:
        differing.pop("study_sha256", None)
    return differing


def _settings() -> Iterable[str]:
    return (*OF_THE_BACKBONE, *OF_THE_METHOD)


def _shown(name: str, value: Any) -> str:
    if name == "study_sha256" and isinstance(value, str):
        return value[:SHA_LENGTH]
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)
    return "" if value is None else str(value)


def _answers(
    runs: Sequence[ComparedRun], cache_dir: Path, data: str | None, backbone_file: str | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Score of each winner on each test image, `(n,)`, for the runs that have the same test images as the first."""
    answers: dict[str, Tensor] = {}
    reasons: dict[str, str] = {}
    wanted = runs[0].results.config["splits"]["test"]["fingerprint"]
    for run in runs:
        if not run.results.summary:
            reasons[run.name] = "the run has not ended"
        elif not was_tested(run.results.summary):
            reasons[run.name] = "it was told not to look at test (--no-test)"
        elif run.results.config["splits"]["test"]["fingerprint"] != wanted:
            reasons[run.name] = f"its test images are not those of {runs[0].name}"
        else:
            try:
                file = backbone_file if is_path(run.results.config["backbone"]) else None
                given = answers_of(
                    run.results, run.folder, run.winner, "test", cache_dir, data=data, backbone_file=file
                )
            except SweepError as error:
                reasons[run.name] = str(error)
            else:
                answers[run.name] = given.target.of_images(given.outputs[None], given.labels)[0].double()
    return answers, reasons


def _by_run(runs: Sequence[ComparedRun], answers: Mapping[str, Tensor]) -> Iterable[PairedTest]:
    """Compare each run with the first."""
    first, *others = runs
    for run in others:
        if run.name in answers:
            yield _test(run.name, first.name, [answers[run.name]], [answers[first.name]], run.results.kind)


def _by_method(runs: Sequence[ComparedRun], answers: Mapping[str, Tensor]) -> Iterable[PairedTest]:
    """Compare each method with the first run's over their common backbones, if there are at least two."""
    tested = [run for run in runs if run.name in answers]
    by_method: dict[tuple[str, ...], dict[tuple[str, ...], ComparedRun]] = {}
    for run in tested:
        by_method.setdefault(run.method, {}).setdefault(run.backbone, run)
    (_, reference), *others = by_method.items()
    for _, own in others:
        shared = [backbone for backbone in reference if backbone in own]
        if len(shared) < 2:
            continue
        name, base = (" + ".join(of[backbone].name for backbone in shared) for of in (own, reference))
        answered, expected = ([answers[of[backbone].name] for backbone in shared] for of in (own, reference))
        yield _test(name, base, answered, expected, tested[0].results.kind)


def _test(name: str, reference: str, own: Sequence[Tensor], others: Sequence[Tensor], kind: TaskKind) -> PairedTest:
    """Compare scores per image `(n,)`; each side has one array per backbone."""
    difference = paired_difference(torch.stack(list(own)), torch.stack(list(others)))
    if kind is CLASSES and len(own) == 1:
        right, base = own[0] > 0, others[0] > 0
        p_value = mcnemar_p_value(int((base & ~right).sum()), int((right & ~base).sum()))
    else:
        p_value = normal_p_value(difference)
    return PairedTest(name, reference, len(own), len(own[0]), difference, p_value)
