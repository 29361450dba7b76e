"""A user's own backbone, from a file or an entry point, and the message for each mistake in it."""

import sys
from pathlib import Path

import pytest
import torch

from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from backbones.timm_levels import TimmLevels
from sweep.errors import SweepError, UsageError

GOOD = """
import torch
from torch import nn
from backbones import Transform


class Net(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.transform = Transform(side, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.one = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.GELU())
        self.two = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.Dropout(0.5))

    def stages(self, images):
        z = [self.stem(images)]
        for block in (self.one, self.two):
            z.append(block(z[-1]))
        return z


def build(image_size=32):
    torch.manual_seed(3)
    return Net(image_size)
"""
TOKENS = GOOD.replace("return z", "return [s.flatten(2).mT[:, :16] for s in z]")


def own(folder: Path, source: str, name: str = "build", **options: object) -> FrozenBackbone:
    file = folder / "mine.py"
    file.write_text(source)
    return load_backbone(f"{file}:{name}", cache_dir=folder, **options)  # type: ignore[arg-type]


def test_grids_are_averaged_onto_the_last(tmp_path: Path) -> None:
    backbone = own(tmp_path, GOOD)
    images = torch.randn(2, 3, 32, 32)
    stages = backbone.stages(images)
    assert (backbone.n_blocks, backbone.widths, backbone.tokens) == (2, (8, 12, 12), 16)
    grid = backbone.network.stem(images)
    torch.testing.assert_close(stages[0][:, 5], grid[:, :, 2:4, 2:4].mean((2, 3)))  # row 1, column 1 of 4 x 4
    assert not any(module.training for module in backbone.network.modules())


def test_tokens_image_size_and_stages(tmp_path: Path) -> None:
    backbone = own(
        tmp_path, TOKENS + "    return Net(image_size)\nNet.n_prefix_tokens = 1\n", image_size=64, stages=[2]
    )
    assert (backbone.image_size, backbone.tokens, backbone.n_prefix_tokens) == (64, 16, 1)
    assert (backbone.stage_indices, backbone.widths) == ((0, 2), (8, 12))
    assert [stage.shape for stage in backbone.stages(torch.zeros(3, 3, 64, 64))] == [(3, 16, 8), (3, 16, 12)]


def test_fingerprint_follows_weights_and_code(tmp_path: Path) -> None:
    first = own(tmp_path, GOOD).fingerprint
    assert own(tmp_path, GOOD).fingerprint == first
    assert own(tmp_path, GOOD.replace("manual_seed(3)", "manual_seed(4)")).fingerprint != first
    assert own(tmp_path, GOOD.replace("return z", "return [s * 2 for s in z]")).fingerprint != first


def test_a_timm_network_with_weights_of_the_users(tmp_path: Path) -> None:
    source = "import timm\n\ndef build():\n    return timm.create_model('test_resnet', num_classes=7)\n"
    backbone = own(tmp_path, source, image_size=64)
    assert isinstance(backbone, TimmLevels)
    assert (backbone.image_size, backbone.network.num_classes) == (64, 7)
    vit = source.replace("test_resnet", "test_vit")
    assert own(tmp_path, vit).image_size == 160
    with pytest.raises(UsageError, match="takes images of 160 px, not 64"):
        own(tmp_path, vit, image_size=64)


WRONG = {
    "a file without a function": (GOOD, "", "names a file but no function in it; give .*mine.py:build"),
    "no such function": (GOOD, "built", "mine.py has no function built"),
    "no function": (GOOD + "number = 3\n", "number", "has no function number; it has build"),
    "a syntax error": ("def build(:\n", "build", r"the backbone file .* does not run: .*line 1"),
    "an error on import": ("import torch\n1 / 0\n", "build", r"does not run: ZeroDivisionError.*line 2: 1 / 0"),
    "an error in build": ("def build():\n    1 / 0\n", "build", r"failed to build: ZeroDivisionError.*line 2: 1 / 0"),
    "no module": ("def build():\n    return 3\n", "build", "must build a torch.nn.Module, not 3"),
    "no stages": ("from torch import nn\ndef build():\n    return nn.Identity()\n", "build", "no method stages"),
    "no transform": (GOOD.replace("self.transform = ", "self.other = "), "build", "needs a backbones.Transform"),
    "an error in stages": (GOOD.replace("z = [", "z = [1 / 0, "), "build", r"failed: ZeroDivisionError.*line 1\d: z ="),
    "no list": (GOOD.replace("return z", "return z[0]"), "build", "must return a list of tensors, not a Tensor"),
    "no tensors": (GOOD.replace("return z", "return [1, z[0]]"), "build", "not a list of Tensor, int"),
    "one stage": (GOOD.replace("return z", "return z[:1]"), "build", "returns 1 stages; it must return at least two"),
    "vectors": (
        GOOD.replace("return z", "return [s.mean((2, 3)) for s in z]"),
        "build",
        r"for 2 images it returns \(2, 8\)",
    ),
    "no batch": (
        GOOD.replace("return z", "return [s[:1] for s in z]"),
        "build",
        r"for 2 images it returns \(1, 8, 8, 8\)",
    ),
    "other tokens": (GOOD.replace("return z", "return [s.flatten(2).mT for s in z]"), "build", "same number of tokens"),
    "whole numbers": (GOOD.replace("return z", "return [s.long() for s in z]"), "build", "not finite floats"),
    "no numbers": (GOOD.replace("return z", "return [s / 0 for s in z]"), "build", "stage 0 that are not finite"),
    "chance": (
        GOOD.replace("return z", "return [s + torch.rand(1) for s in z]"),
        "build",
        "stage 0 for the same images",
    ),
    "its batch": (
        GOOD.replace("return z", "return [s - s.mean(0) for s in z]"),
        "build",
        "alone than for the same image in a batch",
    ),
    "its buffers": (
        GOOD.replace("z = [self", "self.one[1].running_mean += 1; z = [self"),
        "build",
        "changes its own weights or buffers",
    ),
    "prefix of a grid": (GOOD + "Net.n_prefix_tokens = 1\n", "build", "returns grids, which have no prefix tokens"),
    "too long a prefix": (
        TOKENS + "\nNet.n_prefix_tokens = 16\n",
        "build",
        "16 prefix tokens, but only 16 tokens in all",
    ),
    "no number of prefix tokens": (GOOD + "Net.n_prefix_tokens = 'one'\n", "build", "n_prefix_tokens 'one'"),
}


@pytest.mark.parametrize(("source", "name", "message"), WRONG.values(), ids=WRONG)
def test_a_faulty_backbone_is_refused_with_its_fault(tmp_path: Path, source: str, name: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UsageError, match=f"(?s){message}"):
        load_backbone(f"{file}:{name}" if name else str(file), cache_dir=tmp_path)


def test_no_such_file_and_sizes_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*mine\.py"):
        load_backbone(str(tmp_path / "mine.py:build"), cache_dir=tmp_path)
    with pytest.raises(UsageError, match="takes images of 32 px, not 64; leave --image-size out"):
        own(
            tmp_path,
            GOOD.replace("build(image_size=32)", "build()").replace("Net(image_size)", "Net(32)"),
            image_size=64,
        )
    with pytest.raises(UsageError, match="group size 3 does not divide the 2 blocks"):
        own(tmp_path, GOOD, group_size=3)


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Create a package with one entry point, in the form in which pip installs it."""
    (folder / "their_nets.py").write_text(GOOD)
    info = folder / "their_nets-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 2.1\nLicense: MIT\n")
    (info / "entry_points.txt").write_text(f"[sweep.backbones]\ntheirs = {value}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)


def test_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "their_nets:build")
    backbone = load_backbone("theirs", cache_dir=tmp_path, from_record=True)
    assert (backbone.name, backbone.widths) == ("theirs", (8, 12, 12))
    assert backbone.fingerprint == own(tmp_path, GOOD).fingerprint
    with pytest.raises(UsageError, match="did you mean theirs"):
        load_backbone("their", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:build", "cannot be loaded: ModuleNotFoundError"),
        ("their_nets:torch.pi", "is not a function: 3.14"),
    ],
)
def test_entry_point_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    install(tmp_path, monkeypatch, value)
    with pytest.raises(UsageError, match=message):
        load_backbone("theirs", cache_dir=tmp_path)


def test_a_record_executes_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')\n" + GOOD)
    with pytest.raises(SweepError, match="a file is executed only if you give it"):
        load_backbone(f"{tmp_path}/mine.py:build", cache_dir=tmp_path, from_record=True)
    assert not (tmp_path / "trace").exists()
