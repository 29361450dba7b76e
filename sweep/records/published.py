"""Published results on VTAB-1K, shown beside your own (ViT-B/16, pretrained on ImageNet-21k; top-1 in per cent).

The literature reports two means: over the three groups' means ("group"), and over the 19 tasks ("flat"). Protocols
differ in normalisation. Some public code reports the epoch with the best test score, which ours never does.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """The results of one method.

    Attributes:
        method: Name of the method.
        parameters: Trained parameters, in millions; None if not published.
        group_mean: Mean of the three groups' means.
        flat_mean: Mean over the 19 tasks; None if not published.
    """

    method: str
    parameters: float | None
    group_mean: float
    flat_mean: float | None


PUBLISHED = (
    PublishedRow("LAST (arXiv 2402.04009)", 0.66, 76.44, 74.15),
    PublishedRow("MIST", None, 76.7, None),
    PublishedRow("DTL", 0.04, 76.76, 74.58),
    PublishedRow("DTL+", 0.05, 77.7, None),
    PublishedRow("HST (not fully frozen)", 0.78, 78.13, 75.99),
    PublishedRow("MLAE", None, 78.8, None),
    PublishedRow("LST", 2.38, 74.25, 71.70),
    PublishedRow("LoRA", None, 74.6, None),
)
PUBLISHED_LAST = {
    "cifar": 66.7,
    "caltech101": 93.4,
    "dtd": 76.1,
    "oxford_flowers102": 99.6,
    "oxford_iiit_pet": 89.8,
    "svhn": 86.1,
    "sun397": 54.3,
    "patch_camelyon": 86.2,
    "eurosat": 96.3,
    "resisc45": 86.8,
    "diabetic_retinopathy": 75.4,
    "clevr_count": 81.9,
    "clevr_dist": 65.9,
    "dmlab": 49.4,
    "kitti": 82.6,
    "dsprites_loc": 87.9,
    "dsprites_ori": 46.7,
    "smallnorb_azi": 32.3,
    "smallnorb_ele": 51.5,
}
"""The published accuracy of LAST on each task."""
