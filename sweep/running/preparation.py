"""Prepares a study: checks the request, and loads the data and the backbone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from backbones import Backbone, load_backbone, reads_texts
from sweep.data import DataSet, OnBadImage, TableOptions, load_data
from sweep.data.labels import require_measurable
from sweep.errors import UsageError
from sweep.features.folds import Folds
from sweep.features.views import TrainingViews
from sweep.machine.precision import require_fp32_sums
from sweep.running.fixed_options import check_side_networks, check_views
from sweep.running.label_words import head_start_of
from sweep.running.resize_default import resize_of
from sweep.side_networks.checks import check_family
from sweep.side_networks.cost import rank_buckets
from sweep.side_networks.own_networks import own_family
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.asking import check_baseline
from sweep.study.class_weights import completed
from sweep.study.declaration import Study
from sweep.study.fixed import agreeing
from sweep.study.lane_config import LaneConfig
from sweep.study.rehearsal import keep_survey, rehearse, surveyed_configs
from sweep.study.shape import Shape, shape_of, study_of_lane, study_of_shape
from sweep.study.structure import CLASS, OF_TOKENS
from sweep.tasks.box_metrics import require_coco_eval
from sweep.tasks.kinds import DETECTION, TASK_KINDS
from sweep.tasks.targets import Target
from sweep.training.own_check import check_lanes_alike, check_own_network


@dataclass(frozen=True)
class Prepared:
    """A study that is ready to be planned and run, with the backbone for lanes of one shape (first the baseline's).

    Attributes:
        study: The study to search, with the kind of task that follows from the data.
        n_parallel: Number of lanes that the user asked for; None for as many as fit.
        device: Device of backbone and lanes.
        data: The three splits.
        shape: Shape of the lanes.
        backbone: Backbone of that shape, on `device`.
        spec: Structure of the side-networks of that shape.
        views: The views of the training images that lanes of that shape train on.
        on_bad_image: What was done with image files that cannot be read.
    """

    study: Study
    n_parallel: int | None
    device: torch.device
    data: DataSet
    shape: Shape
    backbone: Backbone
    spec: SideNetworkSpec
    views: TrainingViews
    on_bad_image: OnBadImage

    @property
    def study_of_shape(self) -> Study:
        """The study with the declarations of this shape."""
        return study_of_shape(self.study, self.shape)

    @property
    def shares_cores(self) -> bool:
        """Whether parts and stacks will train at the same time, as `can_share_cores` says once there are data."""
        return self.device.type == "cpu" and self.views.n_cached > 0

    @property
    def described_backbone(self) -> str:
        """The backbone and the blocks after which it is read, in words for the user."""
        backbone, blocks = self.backbone, ", ".join(map(str, self.backbone.stage_indices))
        stages = f"{self.spec.n_stages} stages (after {blocks} of {backbone.n_blocks} blocks)"
        return f"{backbone.name}, {backbone.tokens} tokens x {self.spec.described_widths}, {stages}"

    def of_shape(self, shape: Shape, cache_dir: Path, backbone: Backbone | None = None) -> "Prepared":
        """The same study with the backbone for lanes of another shape.

        Args:
            shape: Shape of the lanes.
            cache_dir: Root of sweep's cache.
            backbone: Backbone of that shape; loaded if not given.

        Raises:
            UsageError: The shape does not fit the backbone or the data.
            SweepError: The backbone's weights cannot be loaded.
        """
        own = study_of_shape(self.study, shape)
        check_precision(own.precision, self.device)
        backbone = backbone or backbone_of(own, self.data, self.device, cache_dir)
        spec = side_network_spec(own, self.data, backbone, shape.padded_rank)
        check_spec(own.precision, spec, backbone)
        views = TrainingViews.of(own, self.data.train, backbone.transform)
        return replace(self, shape=shape, backbone=backbone, spec=spec, views=views)


def prepare(
    study: Study,
    *,
    n_parallel: int | None,
    device: torch.device,
    cache_dir: Path,
    on_bad_image: OnBadImage = "error",
) -> Prepared:
    """Check a request, and load its data and backbone.

    Args:
        study: The study, with the declarations that the user overrode.
        n_parallel: Number of lanes; None for as many as fit in memory.
        device: Device of backbone and lanes.
        cache_dir: Root of sweep's cache.
        on_bad_image: What to do with an image file that cannot be read: stop, or leave it out and say so.

    Returns:
        The study with the backbone for lanes of the baseline's shape. If the study declares no `rank_buckets`, they are
        chosen here.

    Raises:
        UsageError: The request cannot be carried out as given.
        SweepError: The data or the weights cannot be loaded.
    """
    if n_parallel is not None and n_parallel < 1:
        raise UsageError(f"--n-parallel must be at least 1, not {n_parallel}; give auto for as many as fit in memory")
    if n_parallel is not None and n_parallel < study.lanes_per_trial:
        options = " or ".join(f"--{name}" for name in ("seeds", "folds", "repeats") if getattr(study, name) > 1)
        raise UsageError(
            f"--n-parallel {n_parallel} is less than the {study.lanes_per_trial} lanes of one trial; raise "
            f"--n-parallel or lower {options}"
        )
    check_baseline(study)
    check_precision(study.precision, device)
    data = load_data(
        study.data,
        seed=study.seed,
        cache_dir=cache_dir,
        on_bad_image=on_bad_image,
        task=study.task,
        accept_licence=study.accept_licence,
        table=TableOptions(study.image_root, study.path_column, study.label_column),
    )
    if data.task == DETECTION.name:
        require_coco_eval()
    study = study.on(TASK_KINDS[data.task])
    if study.folds:
        _check_folds(study, data)
    weights = completed(study.class_weights, data.class_names)
    study = agreeing(replace(study, class_weights=weights, resize=resize_of(study, data)))
    check_baseline(study)
    check_side_networks(study)
    check_views(study)
    baseline = rehearse(study, study.baseline)
    own = study_of_lane(study, baseline)
    backbone = backbone_of(own, data, device, cache_dir)
    if not study.rank_buckets:
        configs = surveyed_configs(study)
        study = replace(study, rank_buckets=_cheapest_buckets(configs, own, data, backbone))
        keep_survey(study, configs)
    shape = shape_of(study, baseline)
    spec = side_network_spec(own, data, backbone, shape.padded_rank)
    check_spec(own.precision, spec, backbone)
    if spec.is_own:
        check_own_network(spec, baseline, backbone.tokens, texts=data.kind == "texts")
        if n_parallel != 1:
            alike = [config for config in surveyed_configs(study) if shape_of(study, config) == shape]
            check_lanes_alike(spec, baseline, alike)
    views = TrainingViews.of(own, data.train, backbone.transform)
    return Prepared(study, n_parallel, device, data, shape, backbone, spec, views, on_bad_image)


def _check_folds(study: Study, data: DataSet) -> None:
    """Raise an error if there is a fold on which nothing can be measured."""
    labels = np.concatenate([data.train.labels, data.val.labels])
    target = Target.of(data.task, data.train.labels)
    folds = Folds.of_labels(torch.from_numpy(labels), target, data.n_classes, study.folds, study.repeats, study.seed)
    measured = {f"fold {fold + 1}": labels[folds.held_out(fold).numpy()] for fold in range(len(folds.class_counts))}
    require_measurable(data.task, data.class_names, {"train": labels, **measured}, data.name, data.kind)


def backbone_of(study: Study, data: DataSet, device: torch.device, cache_dir: Path) -> Backbone:
    """The backbone that a study declares.

    Raises:
        UsageError: No backbone has that name, an option does not fit it, or it does not read this kind of data.
        SweepError: Its weights cannot be loaded.
    """
    backbone = load_backbone(
        study.backbone,
        group_size=study.group_size,
        stages=study.stages,
        image_size=study.image_size,
        # text backbones on images have their own message below
        resize=None if data.kind == "images" and reads_texts(study.backbone) else study.resize,
        max_tokens=study.max_tokens,
        cache_dir=cache_dir,
        device=device,
    )
    if backbone.kind != data.kind:
        raise UsageError(
            f"the backbone {backbone.name} reads {backbone.kind}, and the data {data.name} are {data.kind}; give other "
            f"--data (`sweep data` lists some), or another --backbone (`sweep backbones` does)"
        )
    return backbone


def _cheapest_buckets(configs: Sequence[LaneConfig], own: Study, data: DataSet, backbone: Backbone) -> tuple[int, ...]:
    """The cheapest rank buckets by the cost model, for the ranks of these configurations and the baseline's shape."""

    def spec_of(rank: int) -> SideNetworkSpec:
        return side_network_spec(own, data, backbone, rank)

    ranks = Counter(config.rank for config in configs)
    stack_work = spec_of(max(ranks)).stack_work(backbone.tokens)
    return rank_buckets(ranks, stack_work, lambda rank: spec_of(rank).lane_work(backbone.tokens))


def check_spec(precision: str, spec: SideNetworkSpec, backbone: Backbone) -> None:
    """Check that side-networks of this structure can compute in a precision.

    Raises:
        UsageError: They compute in fp32 only.
    """
    if precision == "bf16" and spec.has_rank_space and spec.widths:
        raise UsageError(
            f"--precision bf16 needs a backbone with one width, and the stages of {backbone.name} have several; "
            f"leave it out"
        )
    if precision == "bf16" and spec.has_rank_space and spec.form == "direct":
        raise UsageError(
            f"--precision bf16 needs side-networks in rank space, but at rank {spec.max_rank} the direct form is "
            f"cheaper, and it computes in fp32; leave --precision out, or lower the ranks"
        )


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a precision exists, and that it is of use on `device`.

    On a CPU, products in bf16 are slower than in fp32, up to a hundred times if the CPU has no bf16 instructions. A run
    that does not find its GPU should say so rather than be slow.

    Raises:
        UsageError: The precision does not exist, or is not available on `device`.
    """
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"--precision must be fp32 or bf16, not {precision!r}")
    if precision == "bf16":
        if device.type != "cuda":
            raise UsageError(f"--precision bf16 needs a GPU, and is slower than fp32 on {device}; leave it out")
        require_fp32_sums()


def side_network_spec(study: Study, data: DataSet, backbone: Backbone, padded_rank: int) -> SideNetworkSpec:
    """Structure of the side-networks of one shape. It follows from the backbone, the classes and the declarations.

    Args:
        study: The study with the declarations of that shape.
        data: The data that the lanes train on.
        backbone: Backbone of that shape.
        padded_rank: Rank that lanes are padded to.

    Raises:
        UsageError: The study asks for something that the backbone or the family of side-networks does not have.
    """
    of_class, dense = study.read_out == CLASS, OF_TOKENS.get(data.task)
    for option, value, default in (("read-out", study.read_out, "pooled"), ("pool", study.pool, None)):
        if dense and value != default:
            raise UsageError(
                f"--{option} {value} is for tasks with one answer for an image, and {data.name} is for {data.task}; "
                f"leave it out"
            )
    if (of_class or study.pool == "class") and backbone.n_prefix_tokens == 0:
        option, remedy = ("read-out", "pooled") if of_class else ("pool", "mean")
        raise UsageError(f"--{option} class needs a class token, and {backbone.name} has none; use --{option} {remedy}")
    if study.pool == "last" and backbone.kind == "images":
        raise UsageError(f"--pool last is for texts, and {backbone.name} reads images; use --pool mean")
    spec = SideNetworkSpec(
        width=backbone.width,
        widths=backbone.widths if len(set(backbone.widths)) > 1 else (),
        n_stages=len(backbone.stage_indices),
        n_classes=data.n_classes,
        n_prefix_tokens=backbone.n_prefix_tokens,
        modules_per_block=study.modules_per_block,
        pool="class" if of_class else study.pool or ("last" if backbone.causal else "mean"),
        max_rank=padded_rank,
        precision=study.precision,
        causal=backbone.causal,
        family=study.side_network if isinstance(study.side_network, str) else own_family(study.side_network),
        attention=study.attention,
        mlp=study.mlp,
        read_out=dense or ("pooled" if of_class else study.read_out),
        n_tokens=backbone.tokens,
        parts=study.parts or 1,
        head_cells=study.head_cells,
        head_stages=min(study.head_stages, max(1, len(backbone.stage_indices) - 1)),
    )
    check_family(spec, backbone.name, texts=backbone.kind == "texts")
    return replace(spec, head_start=head_start_of(study, data, backbone, spec))
