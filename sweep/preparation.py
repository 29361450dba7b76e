"""What a study needs before its first feature: its request checked, its data and backbone loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch

from backbones import Backbone, load_backbone
from sweep.data import DataSet, OnBadImage, load_data
from sweep.errors import UsageError
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study import Study


@dataclass(frozen=True)
class Prepared:
    """A study that can be planned and run.

    Attributes:
        study: What is searched.
        n_parallel: Lanes of a stack that were asked for; None for as many as fit.
        device: Where backbone and lanes run.
        data: The three splits.
        backbone: On `device`.
        spec: Shape of the side-networks.
    """

    study: Study
    n_parallel: int | None
    device: torch.device
    data: DataSet
    backbone: Backbone
    spec: SideNetworkSpec


def prepare(
    study: Study,
    *,
    n_parallel: int | None,
    device: torch.device,
    cache_dir: Path,
    on_bad_image: OnBadImage = "error",
) -> Prepared:
    """Check a request and load what it names.

    Args:
        study: Declarations overridden where the user asked for it.
        n_parallel: Lanes of a stack; None for as many as fit in memory.
        device: Where backbone and lanes run.
        cache_dir: Root of sweep's cache.
        on_bad_image: What to do with an image file that cannot be read: stop, or leave it out and say so.

    Raises:
        UsageError: A request that cannot be carried out as given.
        SweepError: Data or weights cannot be had.
    """
    if n_parallel is not None and n_parallel < 1:
        raise UsageError(f"--n-parallel must be at least 1, not {n_parallel}; give auto for as many as fit in memory")
    study.check_baseline()
    data = load_data(study.data, seed=study.seed, cache_dir=cache_dir, on_bad_image=on_bad_image)
    backbone = load_backbone(
        study.backbone,
        group_size=study.group_size,
        image_size=study.image_size,
        cache_dir=cache_dir,
        device=device,
    )
    return Prepared(study, n_parallel, device, data, backbone, _side_network_spec(study, data, backbone))


def _side_network_spec(study: Study, data: DataSet, backbone: Backbone) -> SideNetworkSpec:
    if study.pool == "class" and backbone.n_prefix_tokens == 0:
        raise UsageError(f"--pool class needs a class token, and {backbone.name} has none; use --pool mean")
    return SideNetworkSpec(
        width=backbone.width,
        n_stages=len(backbone.stage_indices),
        n_classes=data.n_classes,
        n_prefix_tokens=backbone.n_prefix_tokens,
        modules_per_block=study.modules_per_block,
        pool=study.pool,
        max_rank=study.max_rank,
    )
