"""Evaluate the winner on each validation image for the report, with features from the cache."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sweep.data import Split
from sweep.data.base import AnyLabels
from sweep.errors import SweepError
from sweep.features.cache import compute_features
from sweep.records.folder import RunFolder
from sweep.records.results import Results
from sweep.running.recorded import config_of_trial, recorded_backbone, recorded_data, target_of_run
from sweep.search.lane_weights import weights_of
from sweep.study.declaration import DATA_OBJECTS
from sweep.tasks.inputs import Kind
from sweep.training.engine import EVALUATION_BATCH_SIZE


@dataclass(frozen=True)
class Evidence:
    """The winner's outputs on the validation data.

    Attributes:
        values: Probabilities of classes or labels, or predicted numbers, `(n, C)`.
        labels: The true labels of the split.
        val: The validation images or texts.
        kind: Whether these are images or texts.
    """

    values: npt.NDArray[np.float64]
    labels: AnyLabels
    val: Split
    kind: Kind

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


def winner_on_val(
    results: Results,
    folder: RunFolder,
    winner: int,
    cache_dir: Path,
    *,
    data: str | None = None,
    backbone_file: str | None = None,
) -> Evidence:
    """Evaluate the winner on val, over the features that the run left in the cache.

    Args:
        results: The run's tables.
        folder: The run's folder.
        winner: Its trial.
        cache_dir: Root of sweep's cache; features that are no longer there are computed again.
        data: Where the data are now, if not where the run's record says.
        backbone_file: The file of the run's backbone and its function, `PATH.py:FUNCTION`, if it was the user's own.

    Raises:
        SweepError: The images, the backbone or the weights are missing, or differ from those of the run.
    """
    config = results.config
    if config["data"] == DATA_OBJECTS:
        raise SweepError(f"the images came as {DATA_OBJECTS} {config['study_file']}, and a report runs no study file")
    items = recorded_data(config, cache_dir, splits=["val"], moved_to=data)
    val = items.val
    backbone = recorded_backbone(config_of_trial(results, folder, winner), cache_dir, given=backbone_file)
    spec, weights = weights_of(folder, winner, winner)
    module = spec.plain(weights.rank)
    module.load_state_dict(weights.state)
    features = compute_features(backbone, val, cache_dir=cache_dir)
    target = target_of_run(results, folder)
    val_data = features.as_data(spec.n_classes, target)
    like = next(module.parameters())
    with torch.no_grad():
        batches = torch.arange(len(val_data)).split(EVALUATION_BATCH_SIZE)
        logits = torch.cat([module(val_data.batch(indices, like)[0]) for indices in batches])
    values = target.probabilities(target.decode(logits.double())).numpy()
    return Evidence(values, features.labels.numpy(), val, items.kind)
