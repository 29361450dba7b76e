"""The training set of side-networks: cached views that epochs use in turn, or features computed for every batch.

In both cases a lane reads what it would read alone, because the view that an epoch uses depends only on its data order.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

from backbones import Backbone
from sweep.data import Split
from sweep.features.batches import Batch, StageData, TrainingData, apart, stages_first
from sweep.features.computing import decoded, require_finite, rounded_stages
from sweep.features.labels import labels_for
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
        views: The V views, all with the same labels; only masks and boxes move with their images.
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

    def of_stages(self, which: Sequence[int]) -> "CachedViews":
        """The same images with only some of their stages; see `StageData.of_stages`."""
        return CachedViews(tuple(view.of_stages(which) for view in self.views))


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
        which: Indices of the stages that batches have; None for all.
    """

    views: TrainingViews
    splits: tuple[Split, ...]
    backbone: Backbone
    device: torch.device
    n_classes: int
    target: Target = OF_CLASSES
    which: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return sum(split.n_images for split in self.splits)

    @cached_property
    def class_counts(self) -> Tensor:
        """See `TrainingData`; for segmentation and detection, the pixels or boxes of the first view."""
        return self.target.counts(labels_for(self.backbone, self._view(0)), self.n_classes)

    def batches(self, order: int, indices: Iterable[Tensor], like: Tensor) -> Generator[Batch]:
        """See `TrainingData`. Threads decode the images of a batch while lanes train on the batch before it."""
        widths, view = self.backbone.widths, self._view(order - 1)
        with closing(self._stored(view, indices)) as stored:
            for wanted, values in stored:
                stages = apart(stages_first(values.to(like.device), like), widths)
                labels = labels_for(self.backbone, view, wanted.tolist())
                wanted_stages = stages if self.which is None else [stages[stage] for stage in self.which]
                yield wanted_stages, self.target.encode(labels, like)

    def of_stages(self, which: Sequence[int]) -> "LiveViews":
        """The same images with only some of their stages, by index."""
        return replace(self, which=tuple(which))

    def pooled(self, tokens: slice) -> CachedViews:
        """See `TrainingData`: the first few views, in memory."""
        numbers = range(POOLED_VIEWS if self.views.augmentation else 1)
        return CachedViews(tuple(self._pooled(number, tokens) for number in numbers))

    def _pooled(self, number: int, tokens: slice) -> StageData:
        widths, places = self.backbone.widths, torch.arange(len(self)).split(POOLED_IMAGES)
        view = self._view(number)
        parts = [
            StageData(values.cpu().numpy(), wanted, self.n_classes, widths=widths).pooled(tokens).stages[:]
            for wanted, values in self._stored(view, places)
        ]
        labels = labels_for(self.backbone, view)
        return StageData(np.concatenate(parts), labels, self.n_classes, widths=widths, target=self.target)

    def _view(self, number: int) -> Split:
        """One view of all images."""
        return reduce(Split.joined, [self.views.split(split, number) for split in self.splits])

    def _stored(self, view: Split, indices: Iterable[Tensor]) -> Generator[tuple[Tensor, Tensor]]:
        """Batches of one view in the cache's format: the indices of images, `(B,)`, and their features in float16."""
        batches = (wanted.tolist() for wanted in indices)
        with closing(decoded(self.backbone, view, batches)) as ready:
            for batch, images in ready:
                values, extremes, _ = rounded_stages(self.backbone, images, self.device)
                require_finite(values, extremes, batch, self.backbone, view)
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
