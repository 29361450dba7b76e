"""The feature cache: what is computed, what is found again, and what happens after kills, damage and full disks."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import Transform, load_backbone
from sweep.data import Split
from sweep.data.decoding import UnreadableImageError
from sweep.errors import SweepError
from sweep.features import entry as module
from sweep.features.cache import Features, compute_features, feature_key

N_IMAGES = 10


class CountingBackbone:
    """A backbone whose features all equal the mean of the image. Counts the images that it was run for."""

    name = "counting"
    width = 3
    widths = (3, 3, 3)
    n_blocks = 2
    stage_indices: tuple[int, ...] = (0, 1, 2)
    n_prefix_tokens = 1
    tokens = 5
    image_size = 4
    fingerprint = "weights"
    kind = "images"

    def __init__(self) -> None:
        self.transform = Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.batch_sizes: list[int] = []
        self.change: Callable[[torch.Tensor], torch.Tensor] = lambda values: values

    def stages(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.batch_sizes.append(len(images))
        values = self.change(255 * images.mean(dim=(1, 2, 3)))
        return [(values * (index + 1))[:, None, None].expand(-1, self.tokens, self.width) for index in range(3)]


def grey_split(opener: Callable[[int], Image.Image] | None = None, fingerprint: str = "split") -> Split:
    """Ten images. Image i is grey of value i."""
    labels = np.arange(N_IMAGES, dtype=np.int64) % 3
    return Split("val", labels, opener or (lambda i: Image.new("L", (9, 7), i)), lambda: fingerprint)


EXPECTED = np.broadcast_to((np.arange(N_IMAGES)[:, None] * np.array([1, 2, 3]))[:, :, None, None], (N_IMAGES, 3, 5, 3))


def run(cache: Path, backbone: CountingBackbone, split: Split | None = None, **options: Any) -> Features:
    return compute_features(backbone, split or grey_split(), cache_dir=cache, batch_size=4, **options)


def entry(cache: Path, key: str) -> Path:
    return cache / "features" / key


def flip_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_features_labels_and_progress(tmp_path: Path) -> None:
    backbone = CountingBackbone()
    progress: list[tuple[int, int]] = []
    found = run(tmp_path, backbone, on_progress=lambda done, total: progress.append((done, total)))
    assert found.stages.shape == (N_IMAGES, 3, 5, 3)
    assert found.stages.dtype == np.float16
    np.testing.assert_allclose(found.stages, EXPECTED, rtol=1e-3)
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert found.labels.dtype == torch.int64
    assert progress == [(4, 10), (8, 10), (10, 10)]
    assert (found.from_cache, found.n_computed, backbone.batch_sizes) == (False, 10, [4, 4, 2])


def test_second_run_calls_no_backbone_forward(tmp_path: Path) -> None:
    first = run(tmp_path, CountingBackbone())
    backbone = CountingBackbone()
    second = run(tmp_path, backbone)
    assert backbone.batch_sizes == []
    assert (second.from_cache, second.n_computed, second.key) == (True, 0, first.key)
    np.testing.assert_array_equal(second.stages, first.stages)


def test_cached_features_equal_a_direct_forward_of_a_real_backbone(tmp_path: Path) -> None:
    backbone = load_backbone("tiny-untrained", group_size=2, cache_dir=tmp_path)
    split = grey_split()
    compute_features(backbone, split, cache_dir=tmp_path, batch_size=4)
    found = compute_features(backbone, split, cache_dir=tmp_path, batch_size=4)
    assert found.from_cache
    for start in range(0, N_IMAGES, 4):
        indices = range(start, min(start + 4, N_IMAGES))
        images = torch.stack([backbone.transform(split.open(index)) for index in indices])
        direct = torch.stack(backbone.stages(images), dim=1).half().numpy()
        np.testing.assert_array_equal(found.stages[indices.start : indices.stop], direct)


def test_writing_to_the_result_leaves_the_cache_alone(tmp_path: Path) -> None:
    run(tmp_path, CountingBackbone()).stages[:] = 99
    again = run(tmp_path, CountingBackbone())
    assert again.from_cache
    np.testing.assert_allclose(again.stages, EXPECTED, rtol=1e-3)


def test_key_depends_on_everything_the_features_depend_on() -> None:
    keys = {feature_key(CountingBackbone(), grey_split())}
    for attribute, value in [
        ("name", "other"),
        ("fingerprint", "other weights"),
        ("stage_indices", (0, 2)),
        ("transform", Transform(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ("transform", Transform(4, (0.5, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ("transform", Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 0.5))),
        ("transform", Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")),
        ("transform", Transform(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop_pct=0.9)),
    ]:
        backbone = CountingBackbone()
        setattr(backbone, attribute, value)
        keys.add(feature_key(backbone, grey_split()))
    keys.add(feature_key(CountingBackbone(), grey_split(fingerprint="other split")))
    assert len(keys) == 10
    assert feature_key(CountingBackbone(), grey_split()) in keys


def test_keys_of_earlier_versions_still_find_their_entries() -> None:
    of_version_0_3_0 = "59d25430292d7cd3517b16bb98cad86a379b82815c9186aaf7095de14e5fa3d4"
    assert feature_key(CountingBackbone(), grey_split()) == of_version_0_3_0


def stop_after(n_done: int) -> Callable[[int, int], None]:
    def on_progress(done: int, total: int) -> None:
        if done >= n_done:
            raise KeyboardInterrupt

    return on_progress


def test_interrupted_pass_continues_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CountingBackbone(), on_progress=stop_after(4))
    backbone = CountingBackbone()
    resumed = run(tmp_path, backbone)
    assert (resumed.from_cache, resumed.n_computed, backbone.batch_sizes) == (False, 6, [4, 2])
    np.testing.assert_allclose(resumed.stages, EXPECTED, rtol=1e-3)
    assert not list((tmp_path / "features").glob("*.partial"))


def test_another_batch_size_does_not_mix_with_a_half_finished_pass(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CountingBackbone(), on_progress=stop_after(8))
    backbone = CountingBackbone()
    found = compute_features(backbone, grey_split(), cache_dir=tmp_path, batch_size=5)
    assert backbone.batch_sizes == [5, 5]
    np.testing.assert_allclose(found.stages, EXPECTED, rtol=1e-3)


def test_damaged_batch_of_a_half_finished_pass_is_computed_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CountingBackbone(), on_progress=stop_after(8))
    partial = entry(tmp_path, feature_key(CountingBackbone(), grey_split())).with_suffix(".partial")
    flip_bit(partial / module.DATA_FILE, 200)
    with (partial / module.BATCHES_FILE).open("a") as file:
        file.write('{"start": 8, "st')  # an unfinished line, as after a kill in the middle of a write
    backbone = CountingBackbone()
    found = run(tmp_path, backbone)
    assert backbone.batch_sizes == [4, 2]
    np.testing.assert_allclose(found.stages, EXPECTED, rtol=1e-3)
    assert run(tmp_path, CountingBackbone()).from_cache


@pytest.mark.parametrize("damage", ["bit", "cut", "no data", "no record"])
def test_damaged_entry_is_computed_again_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = entry(tmp_path, run(tmp_path, CountingBackbone()).key)
    data = folder / module.DATA_FILE
    if damage == "bit":
        flip_bit(data, data.stat().st_size - 1)
    elif damage == "cut":
        os.truncate(data, data.stat().st_size - 1)
    else:
        (data if damage == "no data" else folder / module.BATCHES_FILE).unlink()
    backbone = CountingBackbone()
    with caplog.at_level(logging.WARNING):
        found = run(tmp_path, backbone)
    assert "is damaged" in caplog.text
    assert str(folder) in caplog.text
    assert not found.from_cache
    assert backbone.batch_sizes == ([2] if damage in ("bit", "cut") else [4, 4, 2])
    np.testing.assert_allclose(found.stages, EXPECTED, rtol=1e-3)
    assert run(tmp_path, CountingBackbone()).from_cache


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -70000.0])
def test_values_that_float16_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    backbone = CountingBackbone()
    backbone.change = lambda values: torch.where(values.round() == 6, value, values)
    with pytest.raises(SweepError, match=r"image 6 of split 'val': backbone 'counting'"):
        run(tmp_path, backbone)
    assert run(tmp_path, CountingBackbone()).n_computed == 6  # the first batch was kept, the bad one was not


def test_an_image_file_with_nan_features_is_named(tmp_path: Path) -> None:
    backbone = CountingBackbone()
    backbone.change = lambda values: values + float("nan")
    split = replace(grey_split(), source=lambda index: f"photos/{index}.png")
    message = r"image 0 of split 'val' \(photos/0\.png\): backbone 'counting' .* another backbone or remove the image"
    with pytest.raises(SweepError, match=message):
        run(tmp_path, backbone, split)


def test_image_that_cannot_be_decoded_stops_the_pass(tmp_path: Path) -> None:
    def opener(index: int) -> Image.Image:
        if index == 9:
            raise SweepError("cannot read the image nine.png")
        return Image.new("L", (4, 4), index)

    with pytest.raises(SweepError, match=r"nine\.png"):
        run(tmp_path, CountingBackbone(), grey_split(opener))
    assert run(tmp_path, CountingBackbone()).n_computed == 2


def test_all_images_that_cannot_be_decoded_are_named_at_once(tmp_path: Path) -> None:
    """Damage behind the header is found while features are computed. All such images are named in one error."""

    def opener(index: int) -> Image.Image:
        if index in (1, 5, 9):
            raise UnreadableImageError(f"{index}.png", "it is truncated")
        return Image.new("L", (4, 4), index)

    with pytest.raises(SweepError, match=r"cannot read 3 images:\n  1\.png: it is truncated\n  5\.png: .*\n  9\.png: "):
        run(tmp_path, CountingBackbone(), grey_split(opener))


def test_too_small_a_disk_is_reported_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(1000))
    backbone = CountingBackbone()
    with pytest.raises(SweepError, match=rf"{tmp_path}.*: 900 bytes are needed \(1,000 bytes are free\)"):
        run(tmp_path, backbone)
    assert not backbone.batch_sizes


class Usage:
    """The part of the result of `shutil.disk_usage` that is used."""

    def __init__(self, free: int) -> None:
        self.free = free


def test_disk_that_fills_up_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = module.write_durably

    def write(path: Path, content: bytes, **options: Any) -> None:
        if options.get("offset"):
            raise OSError(errno.ENOSPC, "No space left on device")
        genuine(path, content, **options)

    monkeypatch.setattr(module, "write_durably", write)
    with pytest.raises(SweepError, match=r"540 bytes are needed .*No space left"):
        run(tmp_path, CountingBackbone())
    monkeypatch.undo()
    assert run(tmp_path, CountingBackbone()).n_computed == 6


SCRIPT = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_feature_cache import CountingBackbone, run
def on_progress(done, total):
    if sys.argv[2] == "kill" and done == 8:
        os.kill(os.getpid(), signal.SIGKILL)
print("begins", flush=True)
found = run(Path(sys.argv[1]), CountingBackbone(), on_progress=on_progress)
print(found.n_computed, float(found.stages.sum()))
"""


def start(cache: Path, mode: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(cache), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_process_then_two_at_once(tmp_path: Path) -> None:
    killed = start(tmp_path, "kill")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    other = start(tmp_path, "run")
    assert other.stdout is not None
    said: list[str] = []

    def wait_for_the_other(done: int, total: int) -> None:
        if not said:
            said.append(other.stdout.readline())  # type: ignore[union-attr]
            time.sleep(0.2)  # now it waits for the features of this process

    found = run(tmp_path, CountingBackbone(), on_progress=wait_for_the_other)
    output, errors = other.communicate()
    assert (other.returncode, said) == (0, ["begins\n"]), errors
    n_computed, total = output.split()
    assert (found.n_computed, int(n_computed)) == (2, 0)
    assert float(found.stages.sum()) == float(total) == float(EXPECTED.sum())
