"""The backbones and features of every shape, loaded when the first trial needs them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from backbones import Backbone, Taps
from backbones.frozen import FrozenBackbone
from backbones.origin import origin_of
from backbones.sizes import transform_record
from sweep.data import Split
from sweep.errors import SweepError, UsageError
from sweep.features.batches import StageData, TrainingData
from sweep.features.cache import Fill, compute_features
from sweep.features.resident import room_on
from sweep.features.training_data import CachedViews, in_room, training_data
from sweep.records.reporter import Reporter
from sweep.running.preparation import Prepared, backbone_of
from sweep.search.trainer import UnusableShapeError
from sweep.study.augmentation import NONE, described
from sweep.study.rehearsal import surveyed_configs
from sweep.study.shape import FeatureSource, Shape, shape_of
from sweep.tasks.targets import Target
from sweep.training.lane_stack import StackSetting

RESIDENT_SHARE = 0.5
"""Share of the memory that is free on a GPU beside a stack that cached features may take."""


@dataclass
class FeatureCounts:
    """The cost of the feature pass so far.

    Attributes:
        n_computed: Number of images or texts that a backbone was run on.
        n_needed: Number of images or texts whose features were needed.
        wall_seconds: Time to compute the features or to find them in the cache.
    """

    n_computed: int = 0
    n_needed: int = 0
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class Splits:
    """The features of all three splits.

    Attributes:
        train: The training set; with folds, the images of train and val.
        val: The validation set, on which lanes are compared; with folds, the images of train and val.
        test: The test set, on which the winner is evaluated once; None if the study does not look at it.
    """

    train: TrainingData
    val: StageData
    test: StageData | None


class ShapeSettings:
    """The settings of all shapes of a run. Shapes that read the same features share them.

    Args:
        prepared: The run's data and backbone for lanes of the baseline's shape.
        cache_dir: Root of the feature cache.
        reporter: Receives progress events.
        record: Called with the record of every source of features when it is first loaded. It raises `SweepError` if
            an earlier process of the run had another source.
        fill: Computes features that are not in the cache; if not given, this process.

    Attributes:
        counts: The cost of the feature pass so far.
        room: The memory of a GPU that the features of all shapes share; None to leave features where they are stored.
    """

    def __init__(
        self,
        prepared: Prepared,
        cache_dir: Path,
        reporter: Reporter,
        record: Callable[[dict[str, Any]], None],
        fill: Fill | None = None,
    ):
        self.prepared, self.cache_dir, self.reporter, self.record = prepared, cache_dir, reporter, record
        self.fill = fill
        self.counts = FeatureCounts()
        self.room = room_on(prepared.device, budget_bytes=0)
        self._by_shape: dict[Shape, Prepared] = {prepared.shape: prepared}
        self._backbones: dict[FeatureSource, Backbone] = {_without_views(prepared.shape.source): prepared.backbone}
        self._recorded: set[FeatureSource] = {prepared.shape.source}
        self._stored: dict[FeatureSource, tuple[TrainingData, StageData]] = {}
        self._placed: dict[FeatureSource, tuple[TrainingData, StageData]] = {}
        self._tests: dict[FeatureSource, StageData] = {}
        self._tapped: dict[FeatureSource, Backbone] = {}
        configs = surveyed_configs(prepared.study)
        self._surveyed = list(dict.fromkeys(shape_of(prepared.study, config).source for config in configs))
        record(source_record(prepared))

    def __call__(self, shape: Shape) -> StackSetting:
        """The data and the side-network structure that the lanes of a shape train with.

        Raises:
            UnusableShapeError: No lane can have this shape.
            SweepError: Features cannot be computed or written.
        """
        prepared, source = self.prepared_of(shape), shape.source
        if source not in self._placed:
            self._placed[source] = in_room(*self._train_and_val(prepared), self.room)
        return StackSetting.of(prepared.study_of_shape, prepared.spec, prepared.backbone.tokens, *self._placed[source])

    def prepared_of(self, shape: Shape) -> Prepared:
        """The run's data and backbone for lanes of a shape that trains now; the run's record gets their source.

        Raises:
            UnusableShapeError: No lane can have this shape.
        """
        prepared = self.looked_at(shape)
        if shape.source not in self._recorded:
            self.record(source_record(prepared))
            self._recorded.add(shape.source)
            views = described(prepared.study_of_shape.declarations())
            trained_on = f"; training images: {views}" if views else ""
            self.reporter.message(f"backbone: {prepared.described_backbone}, for trials of another shape{trained_on}")
            if prepared.backbone.name != self.prepared.backbone.name:
                self.reporter.message(f"      {origin_of(prepared.backbone.name)}")
        return prepared

    def looked_at(self, shape: Shape) -> Prepared:
        """The data and backbone for lanes of a shape that may never train, for a plan; nothing is recorded.

        The backbone is loaded if no earlier shape had it.

        Raises:
            UnusableShapeError: No lane can have this shape.
        """
        if shape not in self._by_shape:
            known = self._backbones.get(_without_views(shape.source))
            try:
                prepared = self.prepared.of_shape(shape, self.cache_dir, known)
            except (UsageError, SweepError) as error:
                raise UnusableShapeError(str(error)) from error
            self._by_shape[shape] = prepared
            if known is None:
                for source, backbone in self._backbones.items():
                    if (source.backbone, source.image_size) == (shape.source.backbone, shape.source.image_size):
                        _share_weights(prepared.backbone, backbone)
                        break
                self._backbones[_without_views(shape.source)] = prepared.backbone
        return self._by_shape[shape]

    def compute(self, shape: Shape) -> None:
        """Compute the features of all splits for lanes of a shape, unless they are in the cache.

        Raises:
            UnusableShapeError: No lane can have this shape.
            SweepError: Features cannot be computed or written.
        """
        self.splits(shape)

    def splits(self, shape: Shape) -> Splits:
        """The features of all splits for lanes of a shape; errors as `compute`."""
        prepared = self.prepared_of(shape)
        train, val = self._train_and_val(prepared)
        if not prepared.study.test:
            return Splits(train, val, None)
        if shape.source not in self._tests:
            self._tests[shape.source] = self._stages(prepared, prepared.data.test)
        return Splits(train, val, self._tests[shape.source])

    def _train_and_val(self, prepared: Prepared) -> tuple[TrainingData, StageData]:
        source, data = prepared.shape.source, prepared.data
        if source not in self._stored:
            folds = prepared.study.folds > 0
            train = training_data(
                prepared.views,
                [data.train, data.val] if folds else [data.train],
                partial(self._stages, prepared),
                backbone=prepared.backbone,
                device=prepared.device,
                n_classes=data.n_classes,
                target=Target.of(data.task, data.train.labels),
            )
            if not folds:
                val = self._stages(prepared, data.val)
            elif isinstance(train, CachedViews) and prepared.views.augmentation is None:
                val = train.views[0]  # lanes are measured on what they learn from, each on another part
            else:
                val = self._stages(prepared, data.train).joined(self._stages(prepared, data.val))
            self._stored[source] = train, val
        return self._stored[source]

    def _stages(self, prepared: Prepared, split: Split) -> StageData:
        data = prepared.data
        wanted = prepared.backbone
        backbone = self.with_all_stages(prepared)
        features = compute_features(
            backbone,
            split,
            cache_dir=self.cache_dir,
            device=prepared.device,
            on_progress=partial(self.reporter.features, f"{split.kind} of {split.name}"),
            fill=self.fill,
        )
        self.counts.wall_seconds += features.wall_seconds
        self.counts.n_computed += features.n_computed
        self.counts.n_needed += split.n_images
        stages = features.as_data(data.n_classes, Target.of(data.task, data.train.labels))
        if backbone is wanted:
            return stages
        return stages.of_stages([backbone.stage_indices.index(block) for block in wanted.stage_indices])

    def with_all_stages(self, prepared: Prepared) -> Backbone:
        """The backbone of a shape, with the stages of all shapes of the study that have the same backbone and input.

        One pass then computes the features of all these shapes. A backbone whose stages differ in width runs once per
        shape.
        """
        source, backbone = prepared.shape.source, prepared.backbone
        alike = [other for other in self._surveyed if _without_taps(other) == _without_taps(source)]
        if len(alike) < 2 or len(set(backbone.widths)) > 1 or not prepared.views.n_cached:
            return backbone
        key = _without_taps(source)
        if key not in self._tapped:
            taps = [Taps(other.group_size, other.stages) for other in (source, *alike)]
            blocks = sorted({block for tap in taps for block in _blocks(tap, backbone)} - {0})
            own = replace(prepared.study_of_shape, stages=blocks)
            same = (0, *blocks) == tuple(backbone.stage_indices)
            if same:
                self._tapped[key] = backbone
            else:
                self._tapped[key] = backbone_of(own, prepared.data, prepared.device, self.cache_dir)
                _share_weights(self._tapped[key], backbone)
        tapped = self._tapped[key]
        return tapped if set(backbone.stage_indices) <= set(tapped.stage_indices) else backbone


def _share_weights(backbone: Backbone, loaded: Backbone) -> None:
    """Let a backbone use the weights of one that was loaded before and that differs in its stages only."""
    if isinstance(backbone, FrozenBackbone) and isinstance(loaded, FrozenBackbone):
        backbone.share_weights(loaded)


def _without_views(source: FeatureSource) -> FeatureSource:
    """A source of features without what changes the images before the backbone reads them."""
    return replace(source, augment=NONE, views=None)


def _without_taps(source: FeatureSource) -> FeatureSource:
    """A source of features without its stages, to compare it with others."""
    return replace(source, stages=None, group_size=1)


def _blocks(taps: Taps, backbone: Backbone) -> tuple[int, ...]:
    """Indices of the blocks that taps name; none if the backbone does not have them."""
    try:
        return taps.of_blocks(backbone.name, backbone.n_blocks)
    except UsageError:
        return ()


def source_record(prepared: Prepared) -> dict[str, Any]:
    """The entry of a source of features in a run's record; JSON can hold it."""
    source = asdict(prepared.shape.source)
    stages = source["stages"]
    return {
        **source,
        "stages": list(stages) if isinstance(stages, tuple) else stages,
        "backbone_fingerprint": prepared.backbone.fingerprint,
        "transform": transform_record(prepared.backbone.transform),
        "augment_fingerprint": prepared.views.fingerprint,
    }


def same_source(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two records name the same source of features, even if the backbone's weights differ."""
    names = FeatureSource.__dataclass_fields__
    return all(a.get(name) == b.get(name) for name in names)
