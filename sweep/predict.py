"""Labels for images out of an exported model, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sweep.data.files import file_split, is_image
from sweep.errors import SweepError, UsageError
from sweep.export.model import AdaptedModel

DECODING_THREADS = 4


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        path: The image.
        values: Probabilities of the classes or labels, or a regression's numbers, `(C,)`, on the CPU.
    """

    path: Path
    values: Tensor


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read.

    Attributes:
        path: The image.
        reason: For the user.
    """

    path: Path
    reason: str


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images that files and folders name: a file as it is, a folder's images below it in order of path.

    Raises:
        UsageError: A path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(inner for inner in path.rglob("*") if is_image(inner))
            if not inside:
                raise UsageError(f"{path} holds no image")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UsageError(f"{path} does not exist")
    return found


@torch.no_grad()
def predict_images(
    model: AdaptedModel, paths: Sequence[Path], *, batch_size: int, on_progress: Callable[[int], None]
) -> Iterator[Prediction | Unreadable]:
    """Label images, in the order given.

    Args:
        model: Where it is, images are sent.
        paths: Image files.
        batch_size: `B`, images a forward pass.
        on_progress: Called with the number of images done after every batch.

    Yields:
        One for every path; images that cannot be read do not stop the others.
    """
    device = next(model.parameters()).device

    def read(path: Path) -> Tensor | Unreadable:
        try:
            image = file_split("images", path.parent, [path], np.zeros(1, dtype=np.int64)).open(0)
            return model.transform(image)
        except (SweepError, OSError, ValueError) as error:
            return Unreadable(path, str(error))

    with ThreadPoolExecutor(DECODING_THREADS, thread_name_prefix="decode") as pool:
        for start in range(0, len(paths), batch_size):
            batch = paths[start : start + batch_size]
            inputs = list(pool.map(read, batch))
            readable = [x for x in inputs if isinstance(x, Tensor)]
            rows: Iterator[Tensor] = iter(())
            if readable:
                rows = iter(model.target.probabilities(model(torch.stack(readable).to(device))).cpu())
            for path, image in zip(batch, inputs, strict=True):
                if isinstance(image, Unreadable):
                    yield image
                else:
                    yield Prediction(path, next(rows))
            on_progress(len(batch))
