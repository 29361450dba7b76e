"""Decode frozen stages to images of 32 x 32 pixels: a ladder with a pixel head against a linear decoder.

    python docs/decode_images.py

Prints the table of docs/image-generation.md. It is an experiment, and no part of sweep.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from backbones import Backbone, load_backbone
from sweep.data import Split, load_data
from sweep.machine.paths import default_cache_dir
from sweep.side_networks.spec import SideNetworkSpec
from sweep.study.structure import DENSE

SIDE, GRID = 32, 4  # pixels of a decoded image, and tokens of the backbone, along a side
PATCH = (SIDE // GRID) ** 2  # pixels of a token
LEARNING_RATES = (1e-3, 4e-3)
RIDGES = (1.0, 10.0, 100.0, 1000.0)

Decoder = Callable[[list[Tensor], Tensor], Tensor]
"""Maps stages, each `(B, L, D)`, and classes `(B,)` to the pixels of every token, `(B, 16, 64)`."""


class ClassConditional(nn.Module):
    """A ladder whose pixel head answers for every token. A learned vector of the class is added to the first stage."""

    def __init__(self, backbone: Backbone, n_classes: int, seed: int):
        super().__init__()
        spec = SideNetworkSpec(
            backbone.width,
            len(backbone.stage_indices) - 1,
            PATCH,
            backbone.n_prefix_tokens,
            1,
            "mean",
            32,
            family="ladder",
            attention=True,
            read_out=DENSE,
            n_tokens=backbone.tokens,
        )
        self.ladder = spec.lane(32, seed)
        self.of_class = nn.Parameter(torch.zeros(n_classes, 1, backbone.width))

    def forward(self, stages: list[Tensor], classes: Tensor) -> Tensor:
        """As `Decoder`."""
        pixels: Tensor = self.ladder([stages[0] + self.of_class[classes], *stages[1:]])
        return pixels


def pixels_of(split: Split, which: Sequence[int]) -> Tensor:
    """Grey values in 0…1 of images, by token, `(n, 16, 64)`."""
    small = [split.open(i).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for i in which]
    grid = torch.from_numpy(np.stack([np.asarray(image) for image in small])).float() / 255
    step = SIDE // GRID
    return grid.unfold(1, step, step).unfold(2, step, step).reshape(len(grid), GRID**2, PATCH)


def images_of(pixels: Tensor) -> list[Image.Image]:
    """The images of `pixels_of`."""
    step = SIDE // GRID
    grid = pixels.clamp(0, 1).view(-1, GRID, GRID, step, step).transpose(2, 3).reshape(-1, SIDE, SIDE)
    return [Image.fromarray(image) for image in (255 * grid).round().byte().numpy()]


@torch.no_grad()
def stages_of(backbone: Backbone, images: Sequence[Image.Image]) -> list[Tensor]:
    """Stages of images, each `(n, L, D)`, without the first: the patches' embeddings are the pixels in other words."""
    inputs = torch.stack([backbone.transform(image) for image in images])  # type: ignore[arg-type]
    parts = [backbone.stages(batch) for batch in inputs.split(100)]
    return [torch.cat(stages) for stages in zip(*parts, strict=True)][1:]


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of two sets of features, `(n, D)`, each taken as a normal distribution."""
    a, b = a.double(), b.double()
    products = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp_min(0).sqrt().sum()
    difference = (a.mean(0) - b.mean(0)).square().sum()
    return float(difference + a.T.cov().trace() + b.T.cov().trace() - 2 * products)


def linear_decoder(stages: list[Tensor], classes: Tensor, pixels: Tensor, ridge: float) -> Decoder:
    """A ridge regression from all stages of a token, normalised, and the class to the token's pixels."""

    def inputs(given: list[Tensor], of: Tensor) -> Tensor:
        tokens = torch.cat([F.layer_norm(stage, stage.shape[-1:])[:, -(GRID**2) :] for stage in given], -1)
        classes_of = F.one_hot(of, 10).float().unsqueeze(1).expand(-1, GRID**2, -1)
        return torch.cat([tokens, classes_of, torch.ones_like(tokens[..., :1])], -1)

    x = inputs(stages, classes).flatten(0, 1).double()
    weights = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]).double(), x.T @ pixels.flatten(0, 1).double())
    return lambda given, of: inputs(given, of) @ weights.float()


def trained_ladder(
    backbone: Backbone, stages: list[Tensor], classes: Tensor, pixels: Tensor, lr: float, n_epochs: int
) -> Decoder:
    """A ladder trained on the squared error with AdamW, a cosine schedule, and batches of 32."""
    model = ClassConditional(backbone, 10, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05)
    n_steps = n_epochs * -(-len(classes) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    order = torch.Generator().manual_seed(0)
    for _ in range(n_epochs):
        for batch in torch.randperm(len(classes), generator=order).split(32):
            loss = F.mse_loss(model([stage[batch] for stage in stages], classes[batch]), pixels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return torch.no_grad()(model.eval())


def main(n_train: int = 800, n_test: int = 500, n_epochs: int = 60) -> None:
    """Train both decoders, and print a table of their errors and distances."""
    cache = default_cache_dir()
    data = load_data("mnist", seed=0, cache_dir=cache)
    backbone = load_backbone("dinov2_small_focus", image_size=56, stages=(8, 12), cache_dir=cache)

    def read(split: Split, n: int) -> tuple[list[Tensor], Tensor, Tensor]:
        which = np.linspace(0, split.n_images - 1, min(n, split.n_images)).round().astype(int).tolist()
        labels = torch.as_tensor(np.asarray(split.labels))[which]
        return stages_of(backbone, [split.open(i) for i in which]), labels, pixels_of(split, which)

    train, val, test = read(data.train, n_train), read(data.val, n_test), read(data.test, n_test)

    def error(decoder: Decoder, of: tuple[list[Tensor], Tensor, Tensor]) -> float:
        stages, classes, pixels = of
        return F.mse_loss(decoder(stages, classes).clamp(0, 1), pixels).item()

    def features(pixels: Tensor) -> Tensor:
        return stages_of(backbone, images_of(pixels))[-1][:, backbone.n_prefix_tokens :].mean(1)

    decoders = {
        "linear decoder": min(
            (linear_decoder(*train, ridge) for ridge in RIDGES), key=lambda decoder: error(decoder, val)
        ),
        "ladder": min(
            (trained_ladder(backbone, *train, lr, n_epochs) for lr in LEARNING_RATES),
            key=lambda decoder: error(decoder, val),
        ),
    }
    generator = torch.Generator().manual_seed(0)
    pairs = [
        torch.stack([members[torch.randperm(len(members), generator=generator)[:2]] for _ in range(n_test // 10)])
        for members in ((train[1] == c).nonzero().flatten() for c in range(10))
    ]
    first, second = torch.cat(pairs).unbind(1)
    mixed = [(stage[first] + stage[second]) / 2 for stage in train[0]]
    real = features(test[2])
    print("| | squared error of test images | distance, decoded test images | distance, generated images |")
    print("|---|---|---|---|")
    own = torch.linspace(0, len(train[1]) - 1, len(real)).round().long()  # of all classes, which come in turn
    print(f"| train images themselves | | | {frechet_distance(features(train[2][own]), real):.1f} |")
    for name, decoder in decoders.items():
        decoded, generated = decoder(test[0], test[1]), decoder(mixed, train[1][first])
        distances = [frechet_distance(features(pixels), real) for pixels in (decoded, generated)]
        print(f"| {name} | {error(decoder, test):.4f} | {distances[0]:.1f} | {distances[1]:.1f} |")
    average = (train[2][first] + train[2][second]) / 2
    print(f"| mean of two train images | | | {frechet_distance(features(average), real):.1f} |")


if __name__ == "__main__":
    main()
