"""The outputs of a run's trial for each image, computed from the feature cache, for reports and comparisons."""

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from backbones.grid import LabelMap
from backbones.protocol import Transform
from backbones.text_transform import TextTransform
from sweep.data import Split
from sweep.data.base import AnyLabels
from sweep.errors import SweepError
from sweep.export.selection import winner_of
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.features.folds import Folds
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.records.tested import was_retrained
from sweep.running.recorded import config_of_trial, recorded_backbone, recorded_data, target_of_run
from sweep.search.lane_weights import retrained_weights, weights_of
from sweep.study.declaration import DATA_OBJECTS
from sweep.study.folds import recorded_folds
from sweep.tasks.inputs import Kind
from sweep.tasks.kinds import DETECTION, SEGMENTATION
from sweep.tasks.targets import Target
from sweep.training.stack import EVALUATION_BATCH_SIZE

FIRST_FOLD = "the first fold"


@dataclass(frozen=True)
class Evidence:
    """The winner's outputs on the validation data.

    Attributes:
        values: Probabilities of classes or labels, or predicted numbers, `(n, C)`; for segmentation the logits of every
            patch token, `(n, P, C)`; for detection the boxes that are found, `(n, D, 6)`.
        labels: The true labels of the split; for segmentation label maps, `(n, M, M)`, for detection boxes,
            `(n, M, 6)`.
        val: The validation images or texts.
        kind: Whether these are images or texts.
        split: What the split is called in headings.
        transform: What the images or texts go through, if it is known.
    """

    values: npt.NDArray[np.float64]
    labels: AnyLabels | LabelMap
    val: Split
    kind: Kind
    split: str = "val"
    transform: Transform | TextTransform | None = None

    @property
    def adjective(self) -> str:
        """What one of these images or texts is called."""
        return "held-out" if self.split == FIRST_FOLD else "val"

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """The values, for tasks where they are probabilities."""
        return self.values

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The predicted classes, `(n,)`."""
        predicted: npt.NDArray[np.int64] = self.probabilities.argmax(-1)
        return predicted

    def most_confused(self, limit: int) -> list[int]:
        """Return the indices of misclassified images, starting with those where the winner is most confident."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        order = np.argsort(-self.probabilities[wrong].max(-1), kind="stable")
        return [int(index) for index in wrong[order][:limit]]


@dataclass(frozen=True)
class Answers:
    """The outputs of a trial's side-network for every image of a split.

    Attributes:
        outputs: Outputs `(n, C)`, before `Target.decode`; see `Target.condensed`.
        labels: Labels of the split.
        target: The target, which decodes outputs.
        split: The images or texts.
        kind: Images or texts.
        transform: What the images or texts go through.
    """

    outputs: torch.Tensor
    labels: torch.Tensor
    target: Target
    split: Split
    kind: Kind
    transform: Transform | TextTransform


def answers_of(
    results: Results,
    folder: RunFolder,
    trial: int,
    split: str,
    cache_dir: Path,
    *,
    data: str | None = None,
    backbone_file: str | None = None,
) -> Answers:
    """Evaluate a trial whose weights were kept, over the features that the run left in the cache.

    Args:
        results: The run's tables.
        folder: The run's folder.
        trial: The winner, or the number of another trial. On test, a winner that was trained again has these weights.
        split: `"val"` or `"test"`. With cross-validation, `"val"` means the images of the first fold, because a trial
            has the weights of the lane that did not learn from these.
        cache_dir: Root of sweep's cache; features that are no longer there are computed again.
        data: Where the data are now, if not where the run's record says.
        backbone_file: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was the user's own.

    Raises:
        SweepError: The images, the backbone or the weights are gone, or are not those of the run.
    """
    config, (n_folds, n_repeats) = results.config, recorded_folds(results.config)
    if config["data"] == DATA_OBJECTS:
        raise SweepError(
            f"the images were {DATA_OBJECTS} {config['study_file']}, and a report does not execute study files"
        )
    folded = n_folds > 0 and split == "val"
    splits = ["train", "val"] if folded else [split]
    items = recorded_data(config, cache_dir, splits=splits, moved_to=data)
    backbone = recorded_backbone(config_of_trial(results, folder, trial), cache_dir, given=backbone_file)
    winner = winner_of(results, folder)
    if split == "test" and trial == winner and was_retrained(results.summary):
        spec, weights = retrained_weights(folder, trial)
    else:
        spec, weights = weights_of(folder, trial, winner)
    module = spec.plain(weights.rank, weights.config)
    module.load_state_dict(weights.state)
    target = target_of_run(results, folder)
    parts: list[Split] = [getattr(items, name) for name in splits]
    features = [compute_features(backbone, part, cache_dir=cache_dir).as_data(spec.n_classes, target) for part in parts]
    stages, images = reduce(StageData.joined, features), reduce(Split.joined, parts)
    which = torch.arange(len(stages))
    if folded:
        which = Folds.of(stages, n_folds, n_repeats, config["seed"]).held_out(0).nonzero().flatten()
        images = images.only(which.tolist(), FIRST_FOLD)
    like = next(module.parameters())
    with torch.no_grad():
        batches = which.split(EVALUATION_BATCH_SIZE)
        outputs = torch.cat([target.condensed(module(stages.batch(indices, like)[0])[None])[0] for indices in batches])
    return Answers(outputs, stages.labels[which], target, images, items.kind, backbone.transform)


def winner_on_val(
    results: Results,
    folder: RunFolder,
    winner: int,
    cache_dir: Path,
    *,
    data: str | None = None,
    backbone_file: str | None = None,
) -> Evidence:
    """The winner's outputs on the validation set; arguments and errors as `answers_of`."""
    answers = answers_of(results, folder, winner, "val", cache_dir, data=data, backbone_file=backbone_file)
    decoded = answers.target.decode(answers.outputs.double())
    of_places = answers.target.kind in (SEGMENTATION, DETECTION)
    values = (decoded if of_places else answers.target.probabilities(decoded)).numpy()
    split = FIRST_FOLD if recorded_folds(results.config)[0] else "val"
    return Evidence(values, answers.labels.numpy(), answers.split, answers.kind, split, answers.transform)
