"""What a benchmark trains: images, their features, and side-networks with equal initial weights in all rows."""

import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from backbones.timm_vit import TimmViT
from sweep.data import Split, load_data
from sweep.data.files import file_split
from sweep.errors import UsageError
from sweep.features.batches import StageData
from sweep.features.cache import compute_features
from sweep.features.side_by_side import passes
from sweep.machine.paths import default_cache_dir
from sweep.machine.precision import Precision
from sweep.machine.seeds import derive_seed
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.lane_config import LaneConfig

N_CLASSES = 8
SEED = 0

LAST = "last"

LADDER_SIZES: dict[str, Any] = {"side_network": "ladder", "rank": 16, "group_size": 3}
"""A ladder as the study `side_networks` begins with: rank 16, and a stage after every third block."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a benchmark.

    Attributes:
        backbone: A name for `backbones.load_backbone`.
        image_size: Side of the backbone's input in pixels; the backbone's default if not given.
        n_parallel: `N`, the configurations that a stack trains.
        rank: `r`.
        epochs: Epochs of one configuration.
        device: PyTorch's name of the device.
        batch_size: `B`.
        group_size: `g`, the number of blocks between two stages.
        side_network: Family of the side-networks.
        precision: Precision of the products in the row `sweep`.
        n_images: Training images of a configuration; as many as a VTAB-1K task has.
    """

    backbone: str = "untrained:vit_small_patch14_dinov2"
    image_size: int | None = 112
    n_parallel: int = 32
    rank: int = 8
    epochs: int = 20
    device: str = "cpu"
    batch_size: int = 32
    group_size: int = 1
    side_network: str = LAST
    precision: Precision = "fp32"
    n_images: int = 800

    @property
    def steps_per_config(self) -> int:
        """The number of optimizer steps of one configuration."""
        return self.epochs * -(-self.n_images // self.batch_size)


@dataclass(frozen=True)
class Shape:
    """The shape of the stages: `S` stages of `L` tokens (with the prefix tokens) and width `D`."""

    n_stages: int
    tokens: int
    width: int
    n_prefix_tokens: int = 1


@dataclass
class Workload:
    """One batch of images, its features, and the lanes to train on them.

    Attributes:
        sizes: The sizes of the benchmark.
        shape: The shape of the stages.
        features: The features of the batch, in fp16 as in the cache.
        images: The images `(B, 3, H, W)`, on the device; None if no row runs the backbone.
        backbone: The backbone; None if no row runs it.
    """

    sizes: Sizes
    shape: Shape
    features: StageData
    images: Tensor | None = None
    backbone: FrozenBackbone | None = None
    configs: list[LaneConfig] = field(init=False)
    spec: SideNetworkSpec = field(init=False)

    def __post_init__(self) -> None:
        lrs = np.geomspace(1e-4, 1e-2, max(2, self.sizes.n_parallel))[: self.sizes.n_parallel]
        rank = self.sizes.rank
        self.configs = [LaneConfig(lr=float(lr), rank=rank, schedule="constant", warmup_epochs=0) for lr in lrs]
        self.spec = SideNetworkSpec(
            width=self.shape.width,
            n_stages=self.shape.n_stages,
            n_classes=N_CLASSES,
            n_prefix_tokens=self.shape.n_prefix_tokens,
            modules_per_block=1,
            pool="mean",
            max_rank=rank,
            precision=self.sizes.precision,
            family=self.sizes.side_network,
            read_out="pooled" if self.sizes.side_network == LAST else "both",
            n_tokens=self.shape.tokens,
        )

    @property
    def device(self) -> torch.device:
        """The device that the rows train on."""
        return torch.device(self.sizes.device)

    @property
    def labels(self) -> Tensor:
        """The labels of the batch, `(B,)`, on the device."""
        return self.features.labels.to(self.device)

    @property
    def of_last(self) -> "Workload":
        """The workload that LAST has beside the same backbone: a module of rank 8 after every block.

        Its features are random; the cost of a step does not depend on their values.
        """
        sizes = replace(self.sizes, side_network=LAST, rank=Sizes.rank, group_size=1)
        n_blocks = (self.shape.n_stages - 1) * self.sizes.group_size
        return Workload.of_random_features(sizes, replace(self.shape, n_stages=n_blocks + 1))

    def seed_of(self, lane: int) -> int:
        """The seed of a lane's initial weights."""
        return derive_seed(SEED, "initialisation", lane)

    @classmethod
    def of_backbone(cls, sizes: Sizes) -> "Workload":
        """Make a workload of rendered images with the real backbone."""
        backbone = load_backbone(
            sizes.backbone,
            group_size=sizes.group_size,
            image_size=sizes.image_size,
            cache_dir=default_cache_dir(),
            device=sizes.device,
        )
        if not isinstance(backbone, TimmViT):
            raise UsageError(
                f"sweep bench measures plain Vision Transformers only, and {sizes.backbone} is not one; give one"
            )
        split = load_data("count", seed=SEED, cache_dir=default_cache_dir()).train
        images = torch.stack([backbone.transform(split.open(i)) for i in range(sizes.batch_size)]).to(sizes.device)
        stages = torch.stack([stage.half() for stage in backbone.stages(images)], 1).cpu().numpy()
        labels = torch.from_numpy(split.labels[: sizes.batch_size] % N_CLASSES)
        shape = Shape(len(backbone.stage_indices), backbone.tokens, backbone.width, backbone.n_prefix_tokens)
        return cls(sizes, shape, StageData(stages, labels, N_CLASSES), images, backbone)

    @classmethod
    def of_random_features(cls, sizes: Sizes, shape: Shape) -> "Workload":
        """Make a workload of random features, for rows without the backbone. Their cost does not depend on values."""
        rng = np.random.default_rng(SEED)
        full = (sizes.batch_size, shape.n_stages, shape.tokens, shape.width)
        stages = rng.standard_normal(full, dtype=np.float32).astype(np.float16)
        labels = torch.from_numpy(rng.integers(0, N_CLASSES, sizes.batch_size))
        return cls(sizes, shape, StageData(stages, labels, N_CLASSES))


@dataclass(frozen=True)
class FeaturePass:
    """The throughput of the feature pass, compared with the backbone alone.

    Attributes:
        images_per_second: Throughput of the whole pass: decoding, backbone, conversion, checks, writing.
        bare_images_per_second: Throughput of the backbone's forward passes alone, on a batch in memory, side by side as
            in the pass.
        shares: Throughput of the pass divided by that of the bare forward pass, for each repetition.
    """

    images_per_second: float
    bare_images_per_second: float
    shares: list[float]


MOST_WRITTEN = 800
"""How many images can be written to be read by a feature pass: the training images of the set `count`."""

PASS_REPETITIONS = 3
PASS_SECONDS = 15.0
"""A feature pass is measured over as many batches as the bare forward pass computes in this time, but at least three.

Its first batch waits for images and its last one for the disk. With more batches, this counts as little as it does for
a whole data set.
"""


def measure_feature_pass(workload: Workload) -> FeaturePass:
    """Time the feature pass into an empty cache, and the bare forward pass on the same number of images, in turns.

    The pass reads JPEG files, see `written_images`.
    """
    backbone, images, sizes = workload.backbone, workload.images, workload.sizes
    assert backbone is not None
    assert images is not None

    def bare_seconds(n_batches: int) -> float:
        synchronise(workload.device)
        started = time.perf_counter()
        batches = ((number, images) for number in range(n_batches))
        for _ in passes(backbone, batches, lambda one, inputs: one.stages(inputs), workload.device):
            pass
        synchronise(workload.device)
        return time.perf_counter() - started

    bare_seconds(1)
    n_batches = min(max(3, int(PASS_SECONDS / bare_seconds(1))), MOST_WRITTEN // sizes.batch_size)
    n_images = n_batches * sizes.batch_size
    bare, whole = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = written_images(folder, n_images)
        for repetition in range(PASS_REPETITIONS):
            bare.append(bare_seconds(n_batches))
            features = compute_features(
                backbone,
                split,
                cache_dir=folder / str(repetition),
                batch_size=sizes.batch_size,
                device=workload.device,
            )
            whole.append(features.wall_seconds)
    return FeaturePass(
        n_images / statistics.median(whole),
        n_images / statistics.median(bare),
        [ours / theirs for ours, theirs in zip(bare, whole, strict=True)],
    )


def written_images(folder: Path, n_images: int) -> Split:
    """Write rendered images into a folder as JPEG files (quality 95, 128 x 128), at most `MOST_WRITTEN` of them."""
    rendered = load_data("count", seed=SEED, cache_dir=default_cache_dir()).train
    files = [folder / f"{index:04}.jpg" for index in range(n_images)]
    for index, path in enumerate(files):
        rendered.open(index).save(path, quality=95)
    return file_split("bench", folder, files, rendered.labels[:n_images])


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
