"""`sweep predict` writes a table of labels for any images."""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import sweep
import sweep.cli
from sweep.export.predict import written
from sweep.export.write import export_run


@pytest.fixture(scope="module")
def shipped(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    export_run(finished_run, folder / "model", cache_dir=folder / "cache")
    return folder / "model"


@pytest.fixture
def pictures(finished_run: Path, tmp_path: Path) -> Path:
    """A folder with five images of the run, some in a subfolder, one broken image and one text file."""
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    for number in range(5):
        source = finished_run.parent / "images" / "above" / f"{number}.png"
        shutil.copy(source, root / ("deep" if number > 2 else ".") / f"{number}.png")
    (root / "deep" / "broken.jpg").write_bytes(b"not an image")
    (root / "notes.txt").write_text("not an image either")
    return root


def call(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sweep", "predict", *arguments])
        with pytest.raises(SystemExit) as ended:
            sweep.cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_table_has_every_readable_image(
    shipped: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "labels.csv"
    assert call(str(shipped), str(pictures), "--csv", str(target), "--batch-size", "2") == 1, "one image was left out"
    table = pd.read_csv(target)
    model = sweep.load_model(shipped)
    assert list(table.columns) == ["path", "label", "probability", *(f"p_{name}" for name in model.class_names)]
    assert [Path(path).name for path in table["path"]] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    with torch.no_grad():
        logits = model(torch.stack([model.transform(Image.open(path)) for path in table["path"]]))
    expected = logits.softmax(-1)
    torch.testing.assert_close(torch.from_numpy(table.iloc[:, 3:].to_numpy()).float(), expected, rtol=0, atol=1e-5)
    assert list(table["label"]) == [model.class_names[i] for i in expected.argmax(-1)]
    assert list(table["probability"]) == pytest.approx(expected.amax(-1).tolist(), abs=1e-5)
    stderr = capsys.readouterr().err
    assert f"left out: {pictures / 'deep' / 'broken.jpg'}: cannot identify image file" in stderr
    assert "5 images labelled" in stderr
    assert "1 of 6 images could not be read and were left out" in stderr
    assert "--on-bad-image" not in stderr, "predict has no such option"


def test_32_bit_images_are_left_out(shipped: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "deep" / "broken.jpg").unlink()
    Image.fromarray(np.full((8, 8), 100_000, dtype=np.int32)).save(pictures / "deep.tif")
    assert call(str(shipped), str(pictures)) == 1
    captured = capsys.readouterr()
    assert "deep.tif: it has 32-bit values (I) from 100000 to 100000" in captured.err
    assert len(pd.read_csv(io.StringIO(captured.out))) == 5


@pytest.mark.parametrize(
    ("number", "std", "shown"),
    [
        (1.5, 1.0, "1.5"),
        (-0.123456789, 1.0, "-0.1234568"),
        (1_700_000_123.456789, 10_000.0, "1700000123.457"),
        (2460000.123456789, 0.001, "2460000.123456789"),
        (1.7e18 + 1e12, 1e14, "1.700001e+18"),
        (0.0, 1e-9, "0"),
    ],
)
def test_numbers_have_the_digits_that_tell_them_apart(number: float, std: float, shown: str) -> None:
    assert written(number, std) == shown
    assert abs(float(shown) - number) <= 1e-6 * std


def test_single_files_to_standard_output(shipped: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(str(shipped), str(pictures / "1.png"), str(pictures / "0.png")) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert [Path(path).name for path in table["path"]] == ["1.png", "0.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 2, "nowhere does not exist"),
        (["empty"], 2, "empty has no image"),
        (["pictures/notes.txt"], 1, "none of the images could be read"),
        (["pictures", "--csv", "nowhere/out.csv"], 1, "cannot write nowhere/out.csv"),
    ],
)
def test_wrong_requests_are_refused(
    shipped: Path,
    pictures: Path,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pictures.parent)
    (pictures.parent / "empty").mkdir()
    assert call(str(shipped), *arguments) == code
    assert message in capsys.readouterr().err
