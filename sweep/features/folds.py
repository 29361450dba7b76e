"""The folds of cross-validation: which images every lane is measured on, and which images it learns from.

All lanes of a stack read the same batches of all images. A lane learns from the images of a batch that are not in its
fold: the others count nothing in its loss.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sweep.errors import UsageError
from sweep.features.batches import StageData
from sweep.machine.seeds import derive_seed
from sweep.tasks.kinds import CLASSES
from sweep.tasks.targets import Target


@dataclass(frozen=True)
class LearnedFrom:
    """The images that the lanes of a fold learn from, as far as losses have to know them.

    Attributes:
        class_counts: Images of each class or with each label, `(C,)`.
        n_images: Number of images.
    """

    class_counts: Tensor
    n_images: int

    def __len__(self) -> int:
        return self.n_images


@dataclass(frozen=True)
class Folds:
    """The folds of all repeats, counted through: fold `k` of repeat `r` has the number `r K + k`.

    Attributes:
        numbers: In each of `R` repeats, the fold from 0 to `K - 1` that holds each of `n` images, `(R, n)`.
        n_folds: Number of folds of a repeat, `K`.
        class_counts: Images of each class or with each label that are not in a fold, `(R K, C)`.
    """

    numbers: Tensor
    n_folds: int
    class_counts: Tensor

    @classmethod
    def of(cls, data: StageData, n_folds: int, n_repeats: int, seed: int) -> "Folds":
        """The folds of images; arguments and errors as `of_labels`."""
        return cls.of_labels(data.labels, data.target, data.n_classes, n_folds, n_repeats, seed)

    @classmethod
    def of_labels(
        cls, labels: Tensor, target: Target, n_outputs: int, n_folds: int, n_repeats: int, seed: int
    ) -> "Folds":
        """Divide images into folds whose sizes differ by one at most, and so does the number of each class in them.

        Without classes, images are divided at random.

        Args:
            labels: Labels of all images, as in `StageData`.
            target: Their kind.
            n_outputs: Number of classes, labels or targets `C`.
            n_folds: Number of folds of a repeat, `K`.
            n_repeats: How often the images are divided, `R`.
            seed: The study's seed.

        Raises:
            UsageError: There are fewer images than folds.
        """
        if n_folds > len(labels):
            raise UsageError(f"--folds {n_folds} is more than the {len(labels)} images of train and val; lower --folds")
        strata = labels.numpy() if target.kind is CLASSES else np.zeros(len(labels), dtype=np.int64)
        numbers = torch.stack([_divided(strata, n_folds, derive_seed(seed, "folds", r)) for r in range(n_repeats)])
        counts = [
            target.counts(labels[of_repeat != fold], n_outputs) for of_repeat in numbers for fold in range(n_folds)
        ]
        return cls(numbers, n_folds, torch.stack(counts))

    def held_out(self, fold: int) -> Tensor:
        """Which images are in a fold, boolean `(n,)`."""
        repeat, number = divmod(fold, self.n_folds)
        return self.numbers[repeat] == number

    def learned_from(self, fold: int) -> LearnedFrom:
        """The images that are not in a fold."""
        return LearnedFrom(self.class_counts[fold], int((~self.held_out(fold)).sum()))

    def together(self, answers: Tensor) -> Tensor:
        """The scores of a trial's lanes on single images, each by the lane that did not learn from the image.

        Args:
            answers: Scores of the lanes, `(seeds R K, n)`, in the order of `sweep.study.folds.fold_of`.

        Returns:
            One row for each seed and repeat, `(seeds R, n)`.
        """
        n_repeats = len(self.numbers)
        by_repeat = answers.view(-1, n_repeats, self.n_folds, answers.shape[-1])
        where = self.numbers.expand(len(by_repeat), 1, -1, -1).transpose(1, 2)
        return by_repeat.gather(2, where).flatten(0, 2)


def _divided(labels: np.ndarray, n_folds: int, seed: int) -> Tensor:
    """The fold of each image: the images, at random but class by class, are dealt to the folds in turn."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[dealt] = np.arange(len(labels)) % n_folds
    return torch.from_numpy(folds)
