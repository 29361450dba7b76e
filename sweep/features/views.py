"""Views of images: results of an augmentation that are the same every time.

View `number` of image `index` depends only on the study's seed and on these two numbers, not on the batch, the order,
the thread or the process. One view of a split is a `Split` like any other, so the feature cache can hold it.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from backbones import Transform
from backbones.protocol import to_rgb
from backbones.text_transform import TextTransform
from sweep.data.base import Split, digest_of
from sweep.data.boxes import Boxes, moved_boxes
from sweep.data.masks import moved_mask
from sweep.errors import UsageError
from sweep.machine.seeds import derive_seed, seeded
from sweep.machine.user_code import line_of
from sweep.study.augmentation import DEFAULT_VIEWS, NONE, Augment, Move, Recipe, recipe

if TYPE_CHECKING:
    from sweep.study.declaration import Study

TRIED_IMAGES, TRIED_VIEWS = 8, 2
"""Numbers of images and of views that an augmentation is tried on, and that its fingerprint is computed from."""


@dataclass(frozen=True)
class Augmentation:
    """A random change of images, repeatable.

    Attributes:
        name: Name of the augmentation, for messages.
        augment: Changes one image.
        seed: The study's seed.
        fingerprint: SHA-256 hex digest over the name and the results for some images. It changes if another recipe,
            function or version of a library gives other results. Empty before `tried`.
    """

    name: str
    augment: Augment = field(repr=False)
    seed: int
    fingerprint: str = ""

    def tried(self, split: Split) -> "Augmentation":
        """The same augmentation with its fingerprint, after trying it on some evenly spaced images of a split.

        Raises:
            UsageError: It fails, does not return an image, or returns another image the second time.
        """
        digests = []
        for index in np.linspace(0, split.n_images - 1, min(TRIED_IMAGES, split.n_images), dtype=int).tolist():
            for number in range(TRIED_VIEWS):
                first, second = (_digest(self.view(split, index, number)) for _ in range(2))
                if first != second:
                    raise UsageError(
                        f"{self.name} changes {split.describe(index)} in another way every time; let it draw from "
                        f"random, numpy.random or torch alone, which sweep seeds"
                    )
                digests.append(first)
                digests += _digests_of_places(self.places(split, number), index)
        return replace(self, fingerprint=digest_of([self.name, *digests]))

    def view(self, split: Split, index: int, number: int) -> Image.Image:
        """Decode and change one image; safe to call from several threads.

        Raises:
            UsageError: The augmentation fails, or does not return an image.
            SweepError: The image cannot be read.
        """
        image = to_rgb(split.open(index)).copy()  # a function may change it in place, and a data set may keep it
        try:
            with seeded(self._seed(index, number), seeds_itself=not isinstance(self.augment, Recipe)):
                changed: object = self.augment(image)
        except Exception as error:
            raise UsageError(
                f"{self.name} failed on {split.describe(index)}: {type(error).__name__}: {error} "
                f"({line_of(self.augment, error)})"
            ) from error
        if not isinstance(changed, Image.Image):
            raise UsageError(
                f"{self.name} must return a Pillow image, not {type(changed).__name__}; leave tensors to sweep, which "
                f"resizes and normalises by itself"
            )
        return changed

    def places(self, split: Split, number: int) -> Split:
        """The same split with its masks or boxes, if it has any, as they are in one view of every image."""
        masks, boxes = split.masks, split.boxes

        def mask_of(index: int) -> Image.Image:
            assert masks is not None
            mask = masks(index)
            return moved_mask(mask, self._moves(mask.size, index, number))

        def boxes_of(index: int) -> Boxes:
            assert boxes is not None
            own = boxes(index)
            return moved_boxes(own, self._moves(own.size, index, number))

        return replace(split, masks=None if masks is None else mask_of, boxes=None if boxes is None else boxes_of)

    def _moves(self, size: tuple[int, int], index: int, number: int) -> tuple[Move, ...]:
        """Where the pixels of an image of that size go in a view."""
        assert isinstance(self.augment, Recipe), "a function says nothing about places"
        with seeded(self._seed(index, number)):
            return self.augment.moves(size)

    def _seed(self, index: int, number: int) -> int:
        return derive_seed(self.seed, "view", number, index)


@dataclass(frozen=True)
class TrainingViews:
    """The views of the training images that a study trains on.

    Attributes:
        augmentation: The augmentation; None to train on the unchanged images.
        n_cached: Number of cached views V, which data orders use in turn. 0 means that every data order has its own
            view, whose features are computed when they are needed.
    """

    augmentation: Augmentation | None
    n_cached: int

    @classmethod
    def of(cls, study: "Study", split: Split, transform: Transform | TextTransform) -> "TrainingViews":
        """The views that a study declares.

        Args:
            study: The study, with its `augment`, `views`, `cache` and `seed`.
            split: The training set; the augmentation is tried on some of its images.
            transform: Transform of the study's backbone.

        Raises:
            UsageError: The study's own function does not work on its images, or these have masks or boxes; or the study
                is on texts and declares an augmentation or `cache="off"`.
        """
        declared, live = study.augment, study.cache == "off"
        if not isinstance(transform, Transform):
            if live or declared != NONE:
                option = "--cache off" if live else "--augment"
                raise UsageError(
                    f"{option} is for images, and the study is on texts; leave it out. If it is the study that asks "
                    f"for it, take a study for texts (`sweep studies` lists them)"
                )
            return cls(None, 1)
        if declared == NONE:
            return cls(None, 0 if live else 1)
        if isinstance(declared, str):
            made = recipe(declared, transform.resized_side, transform.interpolation)
            augmentation = Augmentation(f"augmentation {declared!r}", made, study.seed)
        elif split.masks is not None or split.boxes is not None:
            places = "masks" if split.masks is not None else "boxes"
            raise UsageError(
                f"a function as augment changes images and not their {places}; give the name of a recipe, such as "
                f"flip-crop (--augment, or the study file)"
            )
        else:
            augmentation = Augmentation("the study's augment", declared, study.seed)
        return cls(augmentation.tried(split), 0 if live else study.views or DEFAULT_VIEWS)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the augmentation; None without one."""
        return self.augmentation.fingerprint if self.augmentation else None

    def split(self, split: Split, number: int) -> Split:
        """One view of a split, with the same labels in the same order. Masks and boxes move with their images."""
        augmentation = self.augmentation
        if augmentation is None:
            return split
        return replace(
            augmentation.places(split, number),
            name=f"{split.name}, view {number + 1}",
            opener=lambda index: augmentation.view(split, index, number),
            fingerprinter=lambda: digest_of(
                ["view", split.fingerprint, augmentation.fingerprint, str(augmentation.seed), str(number)]
            ),
        )

    def cached(self, split: Split) -> list[Split]:
        """All views of a split whose features the cache holds."""
        return [self.split(split, number) for number in range(self.n_cached)]


def _digests_of_places(split: Split, index: int) -> list[str]:
    """Digests of an image's mask or boxes, if it has any."""
    masks = [] if split.masks is None else [_digest(split.masks(index))]
    return masks if split.boxes is None else [*masks, digest_of([split.boxes(index).content()])]


def _digest(image: Image.Image) -> str:
    return digest_of([image.mode, str(image.size), image.tobytes()])
