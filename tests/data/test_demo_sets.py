"""The packaged demo sets: their sizes and balance, what the images show, and that they are always the same."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweep.data import DATA_SETS, DataSet, load_data, scanned, sprite_tasks, sprites
from sweep.data import digits as digits_module
from sweep.data.base import Split
from sweep.data.glyphs import glyph_font
from sweep.data.rendered import render
from sweep.errors import SweepError, UsageError


def load(name: str, cache_dir: Path, seed: int = 0) -> DataSet:
    if name == "fashion-mnist" and scanned.fashion_folder(cache_dir) is None:
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    return load_data(name, seed=seed, cache_dir=cache_dir, accept_licence=DATA_SETS[name].terms)


def content(item: Image.Image | str) -> bytes:
    return item.encode() if isinstance(item, str) else item.tobytes()


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_sizes_balance_and_fingerprints(name: str, cache_dir: Path) -> None:
    data = load(name, cache_dir, seed=3)
    splits = (data.train, data.val, data.test)
    assert data.n_classes == DATA_SETS[name].n_classes
    assert tuple(split.n_images for split in splits) == DATA_SETS[name].sizes, "as `sweep data` prints"
    assert data.name == name
    assert data.task == DATA_SETS[name].task
    for split in splits:
        if data.task == "classes":
            sizes = np.bincount(split.labels, minlength=data.n_classes)
            assert sizes.max() - sizes.min() <= 1 or name.startswith("elpv")  # its classes differ in size
        else:
            assert split.labels.shape == (split.n_images, data.n_classes)
        assert split.labels.dtype == (np.float64 if data.task == "regression" else np.int64)
        with pytest.raises(IndexError):
            split.open(split.n_images)
    assert len({split.fingerprint for split in splits}) == 3
    assert data.notice
    again = load(name, cache_dir, seed=4)
    for split, same in zip(splits, (again.train, again.val, again.test), strict=True):
        assert split.fingerprint == same.fingerprint
        assert content(split.open(7)) == content(same.open(7))


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_pictures_differ_within_and_between_splits(name: str, cache_dir: Path) -> None:
    data = load(name, cache_dir)
    pictures = {content(split.open(i)) for split in (data.train, data.val, data.test) for i in range(8)}
    assert len(pictures) == 24


def islands(mask: np.ndarray) -> int:
    """Return the number of 8-connected regions of True."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = 0
    while left:
        found += 1
        front = [left.pop()]
        while front:
            y, x = front.pop()
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
    return found


def test_mnist_count_shows_as_many_digits_as_it_says(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits are replaced by solid squares. Each pasted digit is then one region, and regions can be counted."""
    squares = np.zeros((5, 28, 28), dtype=np.uint8)
    squares[:, 4:24, 8:20] = 255
    for n_digits in range(1, 9):
        picture = np.asarray(digits_module.paste_digits(squares, n_digits, f"seed {n_digits}"))
        assert picture.shape == (112, 112)
        assert islands(picture > 128) == n_digits


@pytest.mark.parametrize("n_objects", [3, 6, 10])
def test_count_shows_as_many_objects_as_it_says(n_objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With white objects, no shadows and a dark background, every object is one bright region."""
    monkeypatch.setattr("sweep.data.rendered.PALETTE", ((255, 255, 255),))
    monkeypatch.setattr("sweep.data.rendered._shaded", solid)
    monkeypatch.setattr("sweep.data.rendered._background", dark)
    for seed in range(8):
        picture = np.asarray(render(n_objects, f"seed {seed}").convert("L"))
        assert picture.shape == (128, 128)
        assert islands(picture > 60) == n_objects


def solid(colour: tuple[int, int, int], brightness: np.ndarray, inside: np.ndarray) -> object:
    return Image.fromarray(np.where(inside[..., None], 255, 0).repeat(4, axis=-1).astype(np.uint8), "RGBA")


def dark(rng: object, side: int) -> object:
    return Image.new("RGB", (side, side))


def test_mnist_splits_are_disjoint_and_keep_their_labels(cache_dir: Path) -> None:
    scans, labels = digits_module._digits(cache_dir)
    label_of = {scan.tobytes(): int(label) for scan, label in zip(scans, labels, strict=True)}
    data = load_data("mnist", seed=0, cache_dir=cache_dir)
    seen: set[bytes] = set()
    for split in (data.train, data.val, data.test):
        pixels = {split.open(i).tobytes(): int(split.labels[i]) for i in range(split.n_images)}
        assert all(label_of[content] == label for content, label in pixels.items())
        assert not seen & pixels.keys()
        seen |= pixels.keys()
    assert len(seen) == 2000


@pytest.mark.parametrize(("spec", "message"), [("cuont", "did you mean count"), ("no/such/folder", "does not exist")])
def test_unknown_name(spec: str, message: str, cache_dir: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_data(spec, seed=0, cache_dir=cache_dir)
    assert repr(spec) in str(caught.value)
    assert ", ".join(DATA_SETS) in str(caught.value)


def test_a_file_is_no_data_set(tmp_path: Path, cache_dir: Path) -> None:
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        load_data(str(tmp_path / "list.txt"), seed=0, cache_dir=cache_dir)


@pytest.fixture
def white_on_black(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sprites, sprite_tasks):
        monkeypatch.setattr(module, "colour_unlike", lambda rng, ground: (255, 255, 255))
        monkeypatch.setattr(module, "mottled", lambda rng, ground: dark(rng, sprites.IMAGE_SIZE))


@pytest.mark.usefixtures("white_on_black")
def test_sprites_are_as_large_as_they_say_whatever_their_shape() -> None:
    for label, radius in enumerate(sprites.RADII):
        for seed in range(8):
            area = np.asarray(sprites.render(f"seed {seed}", scale=label).convert("L")).sum() / 255
            assert np.sqrt(area / np.pi) == pytest.approx(radius, rel=0.03)


@pytest.mark.usefixtures("white_on_black")
def test_sprites_are_in_the_column_they_say() -> None:
    """Each sprite also lies wholly inside the image.

    The tolerance allows for its centre of mass being off its centre.
    """
    width = (sprites.IMAGE_SIZE - 3.2 * sprites.RADII[-1]) / sprites.N_PLACES
    for label in range(sprites.N_PLACES):
        for seed in range(8):
            picture = np.asarray(sprites.render(f"seed {seed}", column=label, shape=seed % 5).convert("L"))
            centre = (picture.sum(0) * (np.arange(sprites.IMAGE_SIZE) + 0.5)).sum() / picture.sum()
            place = (centre - 1.6 * sprites.RADII[-1]) / width
            assert -0.15 < place - label < 1.15
            assert not np.concatenate([picture[[0, -1]].ravel(), picture[:, [0, -1]].ravel()]).any()


@pytest.mark.usefixtures("white_on_black")
def test_shapes_differ_and_nothing_else_does() -> None:
    pictures = [np.asarray(sprites.render("seed", shape=shape).convert("L")) for shape in range(len(sprites.SHAPES))]
    assert len({picture.tobytes() for picture in pictures}) == len(sprites.SHAPES)
    areas = [picture.sum() / 255 for picture in pictures]
    assert max(areas) / min(areas) < 1.06


@pytest.mark.usefixtures("white_on_black")
def test_a_sprite_is_where_its_targets_say_and_as_large() -> None:
    data = sprite_tasks.sprite_place()
    places = np.arange(sprites.IMAGE_SIZE) + 0.5
    for index in range(24):
        picture = np.asarray(data.train.open(index).convert("L"), dtype=np.float64)
        x, y, radius = data.train.labels[index]
        assert (picture.sum(0) * places).sum() / picture.sum() == pytest.approx(x, abs=0.02 * radius)
        assert (picture.sum(1) * places).sum() / picture.sum() == pytest.approx(y, abs=0.02 * radius)
        assert np.sqrt(picture.sum() / 255 / np.pi) == pytest.approx(radius, rel=0.03)
        assert not np.concatenate([picture[[0, -1]].ravel(), picture[:, [0, -1]].ravel()]).any(), "wholly inside"


@pytest.mark.usefixtures("white_on_black")
def test_a_picture_shows_the_shapes_that_its_labels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprite_tasks, "SPACING", sprites.REACH)  # shapes are so far apart that outlines do not touch
    data = sprite_tasks.sprite_set()
    drawn: list[list[str]] = []
    name_of = {id(outline): name for name, outline in sprites.SHAPES.items()}
    render_set = sprite_tasks.render_set

    def remembered(seed: str, outlines: list[sprites.Outline]) -> Image.Image:
        drawn.append([name_of[id(outline)] for outline in outlines])
        return render_set(seed, outlines)

    monkeypatch.setattr(sprite_tasks, "render_set", remembered)
    for index in range(24):
        picture = np.asarray(data.val.open(index).convert("L"))
        labels = [name for name, has in zip(data.class_names, data.val.labels[index], strict=True) if has]
        assert drawn[-1] == labels
        assert islands(picture > 128) == len(labels)
    assert {len(labels) for labels in drawn} == set(range(sprite_tasks.MOST_SHAPES + 1))


def test_typefaces_differ_and_nothing_else_does(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sweep.data import glyphs

    fonts: list[bytes] = []
    monkeypatch.setattr(glyphs, "_split", lambda name, size, of_set: fonts.extend(of_set) if not fonts else None)
    glyph_font(cache_dir)
    pictures = [np.asarray(glyphs.render(font, "seed 5")) for font in fonts]
    assert len({picture.tobytes() for picture in pictures}) == len(fonts) == 16
    assert len({(picture[0, 0], picture.shape) for picture in pictures}) == 1


def test_digits_keep_their_labels(cache_dir: Path) -> None:
    """The mean image of each training class is nearest to the mean test image of the same class."""
    data = load("digits", cache_dir)

    def means(split: Split) -> np.ndarray:
        pixels = np.stack([np.asarray(split.open(i), dtype=float).ravel() for i in range(split.n_images)])
        return np.stack([pixels[split.labels == label].mean(0) for label in range(10)])

    distances = ((means(data.train)[:, None] - means(data.test)) ** 2).sum(-1)
    assert distances.argmin(1).tolist() == list(range(10))


def test_missing_fashion_mnist_files_are_named_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanned, "FASHION_FOLDER", tmp_path / "nowhere")
    with pytest.raises(
        SweepError, match=r"Debian package dataset-fashion-mnist, or put its four files .*fashion-mnist"
    ):
        load_data("fashion-mnist", seed=0, cache_dir=tmp_path)
    assert DATA_SETS["fashion-mnist"].whereabouts(tmp_path) == "Debian's dataset-fashion-mnist"
    (tmp_path / "fashion-mnist").mkdir()
    for name in scanned.FASHION_SHA256:
        (tmp_path / "fashion-mnist" / f"{name}.gz").write_bytes(gzip.compress(b"other images"))
    with pytest.raises(SweepError, match=r"train-images-idx3-ubyte\.gz is not a file of Fashion-MNIST"):
        load_data("fashion-mnist", seed=0, cache_dir=tmp_path)
    (tmp_path / "fashion-mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(SweepError, match=r"cannot read .*train-images-idx3-ubyte\.gz"):
        load_data("fashion-mnist", seed=0, cache_dir=tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_or_file_with_the_name_of_a_data_set_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    load_data("count", seed=0, cache_dir=tmp_path)
    assert caplog.text == ""
    Path("count").mkdir() if kind == "folder" else Path("count").touch()
    assert load_data("count", seed=0, cache_dir=tmp_path).n_classes == 8
    assert f"--data count is sweep's own data set of that name; for the {kind} here, give --data ./count" in caplog.text
