"""The training set of side-networks: cached views that epochs use in turn, or features computed for every batch.

In both cases a lane reads what it would read alone, because the view that an epoch uses depends only on its data order.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from backbones import Backbone
from sweep.data import Split
from sweep.features.batches import Batch, StageData, TrainingData, apart, stages_first
from sweep.features.computing import decoded, require_finite, rounded_stages
from sweep.features.resident import DeviceRoom
from sweep.features.views import TrainingViews
from sweep.tasks.targets import OF_CLASSES, Target

POOLED_VIEWS = 4
"""Number of views that a linear probe trains on if no views are cached. Each costs a pass of the backbone."""

POOLED_IMAGES = 32
"""Images in one forward pass, if no views are cached."""


@dataclass(frozen=True)
class CachedViews:
    """Views of the same images that data orders use in turn: data order 1 uses the first view.

    Attributes:
        views: The V views, all with the same labels.
    """

    views: tuple[StageData, ...]

    def __len__(self) -> int:
        return len(self.views[0])

    @property
    def class_counts(self) -> Tensor:
        """See `TrainingData`."""
        return self.views[0].class_counts

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`."""
        return self.views[(order - 1) % len(self.views)].batches(order, indices, like)

    def pooled(self, tokens: slice) -> "CachedViews":
        """See `TrainingData`."""
        return CachedViews(tuple(view.pooled(tokens) for view in self.views))

    def of_stage(self, stage: int) -> "CachedViews":
        """The same images with only one of their stages, by index."""
        return CachedViews(tuple(view.of_stage(stage) for view in self.views))


@dataclass(frozen=True)
class LiveViews:
    """Images whose features are computed batch by batch, once for all lanes, and not stored.

    Every data order has its own view. View 1 is the same as the first cached view, and so on.

    Attributes:
        views: The views of the images.
        splits: The images, one split after the other.
        backbone: The backbone, on `device`.
        device: Device of the features.
        n_classes: Number of classes, labels or targets `C`.
        target: The kind of the labels, and for regression their scale.
    """

    views: TrainingViews
    splits: tuple[Split, ...]
    backbone: Backbone
    device: torch.device
    n_classes: int
    target: Target = OF_CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labels(self) -> Tensor:
        """See `StageData`."""
        return torch.from_numpy(np.concatenate([split.labels for split in self.splits]))

    @property
    def class_counts(self) -> Tensor:
        """See `TrainingData`."""
        return self.target.counts(self.labels, self.n_classes)

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`. Threads decode the images of a batch while lanes train on the batch before it."""
        labels, widths = self.labels, self.backbone.widths
        with closing(self._stored(order - 1, indices)) as stored:
            for wanted, values in stored:
                stages = apart(stages_first(values.to(like.device), like), widths)
                yield stages, self.target.encode(labels[wanted], like)

    def pooled(self, tokens: slice) -> CachedViews:
        """See `TrainingData`: the first few views, in memory."""
        numbers = range(POOLED_VIEWS if self.views.augmentation else 1)
        return CachedViews(tuple(self._pooled(number, tokens) for number in numbers))

    def _pooled(self, number: int, tokens: slice) -> StageData:
        widths, places = self.backbone.widths, torch.arange(len(self)).split(POOLED_IMAGES)
        parts = [
            StageData(values.cpu().numpy(), wanted, self.n_classes, widths=widths).pooled(tokens).stages[:]
            for wanted, values in self._stored(number, places)
        ]
        return StageData(np.concatenate(parts), self.labels, self.n_classes, widths=widths, target=self.target)

    def _stored(self, number: int, indices: Iterable[Tensor]) -> Generator[tuple[Tensor, Tensor]]:
        """Batches of one view in the cache's format: the indices of images, `(B,)`, and their features in float16."""
        split = reduce(Split.joined, [self.views.split(split, number) for split in self.splits])
        batches = (wanted.tolist() for wanted in indices)
        with closing(decoded(self.backbone, split, batches)) as ready:
            for batch, images in ready:
                values, extremes, _ = rounded_stages(self.backbone, images, self.device)
                require_finite(values, extremes, batch, self.backbone, split)
                yield torch.tensor(batch), values


def training_data(
    views: TrainingViews,
    splits: Sequence[Split],
    stages_of: Callable[[Split], StageData],
    *,
    backbone: Backbone,
    device: torch.device,
    n_classes: int,
    target: Target = OF_CLASSES,
) -> TrainingData:
    """The training set of side-networks.

    Args:
        views: The views of its training images that the study declares.
        splits: The images, one split after the other.
        stages_of: Returns the stages of a split, from the cache if they are there.
        backbone: The backbone, on `device`.
        device: Device of the features.
        n_classes: Number of classes, labels or targets `C`.
        target: The kind of the labels, and for regression their scale.
    """
    if views.n_cached == 0:
        return LiveViews(views, tuple(splits), backbone, device, n_classes, target)
    return CachedViews(
        tuple(
            reduce(StageData.joined, [stages_of(views.split(split, number)) for split in splits])
            for number in range(views.n_cached)
        )
    )


def in_room(train: TrainingData, val: StageData, room: DeviceRoom | None) -> tuple[TrainingData, StageData]:
    """The training and validation sets, read from a GPU while there is room for them; unchanged without a room."""
    if room is None:
        return train, val
    if not isinstance(train, CachedViews):
        return train, room.of(val)
    placed = CachedViews(tuple(map(room.of, train.views)))
    same = next((own for own, view in zip(placed.views, train.views, strict=True) if view is val), None)
    return placed, same or room.of(val)
