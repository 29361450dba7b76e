"""The packaged set `glyph-font`: one letter, and the class is which of 16 typefaces it is set in."""

import io
import random
import string
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sweep.data.base import DataSet, Split, digest_of
from sweep.data.rendered import balanced_labels
from sweep.machine.packaged_files import fetch_wheel_member

PACKAGE, VERSION = "matplotlib", "3.11.2"
FOLDER = "matplotlib/mpl-data/fonts/ttf"
SHA256 = {
    "DejaVuSans": "3fdf69cabf06049ea70a00b5919340e2ce1e6d02b0cc3c4b44fb6801bd1e0d22",
    "DejaVuSans-Bold": "b184b89e3c1075f22f6b71575b6fc20d4972b3cfd3b23322ca6fd596dcaef167",
    "DejaVuSans-Oblique": "ccdf74b350f11fd3dd5774de50e5e6346a1a5da1f5b7d5fb83590665e97a5213",
    "DejaVuSans-BoldOblique": "6edf0283160186af451cbee71e7b845f2e4cabf264bb992ce668c83c25465e6f",
    "DejaVuSansMono": "602ec86b8948cfcd956482fe64f94c36c867770149ef2f791d4613f443bcecb3",
    "DejaVuSansMono-Bold": "baada9a5172fe20886251aff0433fc38461912d5daf07287e7bee56620a8da96",
    "DejaVuSansMono-Oblique": "28052813f7a709fc89f52d192dc995ef4f0fdc5c3d7b73a49d6849b1916d0cd0",
    "DejaVuSansMono-BoldOblique": "a69081c15c76c827e0a27a5a7f5c74b6135c843499955495ffa8c20d3a98288b",
    "DejaVuSerif": "107244956e9962b9e96faccdc551825e0ae0898ae13737133e1b921a2fd35ffa",
    "DejaVuSerif-Bold": "c3753f2ed6bc673f15846dc45addbeb3b9c872f32fb18fd53a21f1bef1ed7676",
    "DejaVuSerif-Italic": "3e7994fbc54fa10ce3352a42d548fadd7d9cadb69cb1109bc9d960f6dac57f04",
    "DejaVuSerif-BoldItalic": "d93efec7a9d2e826768d1a2ee95b95870e15e29599a84f3484af1de1cec2e181",
    "STIXGeneral": "167378031e2dddc6216d67819c9260e9a06ffc4c478e4e23cb98a6fd44b183c2",
    "STIXGeneralBol": "e8533dc7083fa346bda1933d60ea4a83b67d0945bceaf1b3541f82b4a0e2c6a0",
    "STIXGeneralItalic": "6cfcb333d22b7c3c623bdfd40174f14c85c3d6731ca6166c1edc80140eae8527",
    "STIXGeneralBolIta": "98788fd4ba48dfbb2bd026c0e20a247a8b06c7372879628b7a6bb0d5bb09736c",
}
RENDERER_VERSION = 1
IMAGE_SIZE = 64
SPLIT_SIZES = {"train": 800, "val": 200, "test": 500}
SMALLEST, LARGEST = 30, 50  # pixels of an em
NOTICE = (
    "Rendered by sweep itself from DejaVu (Bitstream Vera's licence) and STIX (OFL 1.1) typefaces, "
    f"as carried by matplotlib {VERSION}."
)


def glyph_font(cache_dir: Path) -> DataSet:
    """Return the packaged set `glyph-font`: 16 classes, 800 / 200 / 500 images of 64 x 64, rendered when opened.

    Raises:
        SweepError: the package that carries the typefaces cannot be fetched.
    """
    fonts = [
        fetch_wheel_member(PACKAGE, VERSION, f"{FOLDER}/{name}.ttf", sha256, cache_dir=cache_dir)
        for name, sha256 in SHA256.items()
    ]
    splits = {name: _split(name, size, fonts) for name, size in SPLIT_SIZES.items()}
    return DataSet(
        name="glyph-font",
        description=f"rendered: one letter of the alphabet; the class is which of {len(SHA256)} typefaces it is set in",
        class_names=tuple(SHA256),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        notice=NOTICE,
    )


def _split(name: str, size: int, fonts: list[bytes]) -> Split:
    seed = f"glyph-font/{RENDERER_VERSION}/{name}"
    labels = balanced_labels(seed, size, len(fonts))

    def opener(index: int) -> Image.Image:
        return render(fonts[int(labels[index])], f"{seed}/{index}")

    def fingerprint() -> str:
        return digest_of([seed, *SHA256.values(), labels.tobytes(), opener(0).tobytes()])

    return Split(name, labels, opener, fingerprint)


def render(font: bytes, seed: str) -> Image.Image:
    """Render one letter, dark on light or light on dark, of any size and somewhere near the middle.

    Args:
        font: a TrueType file.
        seed: everything else.

    Returns:
        Greyscale image of 64 x 64 pixels.
    """
    rng = random.Random(seed)
    paper, ink = rng.randint(160, 255), rng.randint(0, 95)
    if rng.random() < 0.5:
        paper, ink = ink, paper
    letter, em = rng.choice(string.ascii_letters), rng.randint(SMALLEST, LARGEST)
    place = tuple(IMAGE_SIZE / 2 + rng.uniform(-4, 4) for _ in range(2))
    picture = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE), paper)
    face = ImageFont.truetype(io.BytesIO(font), em)  # one a picture: threads must not share a face
    ImageDraw.Draw(picture).text((place[0], place[1]), letter, fill=ink, font=face, anchor="mm")
    return picture
