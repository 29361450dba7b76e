"""Texts in the feature cache are stored without padding and read as if padded. Caches of sweep 0.3 still open."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones import load_backbone
from backbones.frozen import FrozenBackbone
from sweep.data import Split, load_data
from sweep.features.batches import StageData
from sweep.features.cache import Features, compute_features, feature_key, n_images_missing, stored_tokens
from sweep.features.resident import ResidentStageData
from sweep.machine.settings import computing_on

LIKE = torch.empty(0)


@pytest.fixture(scope="module")
def backbone(text_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> FrozenBackbone:
    unused = tmp_path_factory.mktemp("unused")
    return load_backbone(str(text_decoder), group_size=2, max_tokens=24, cache_dir=unused)


@pytest.fixture(scope="module")
def split(text_table: Path) -> Split:
    return load_data(str(text_table), seed=0, cache_dir=text_table.parent).train


def compute(backbone: FrozenBackbone, split: Split, cache: Path) -> Features:
    return compute_features(backbone, split, cache_dir=cache, batch_size=7)


def expected(backbone: FrozenBackbone, split: Split, texts: list[int]) -> list[torch.Tensor]:
    return backbone.stages(torch.stack([backbone.transform(split.open(text)) for text in texts]))


def entry(backbone: FrozenBackbone, split: Split, cache: Path) -> Path:
    return cache / "features" / feature_key(backbone, split)


def test_padding_takes_no_space(backbone: FrozenBackbone, split: Split, tmp_path: Path) -> None:
    features = compute(backbone, split, tmp_path)
    assert features.lengths is not None
    n_tokens = int(features.lengths.sum())
    assert n_tokens == stored_tokens(backbone, split) < split.n_images * backbone.tokens / 2
    on_disk = (entry(backbone, split, tmp_path) / "stages.f16").stat().st_size
    assert features.stages.nbytes == on_disk == n_tokens * sum(backbone.widths) * 2


def assert_read(data: StageData, backbone: FrozenBackbone, split: Split, texts: list[int]) -> None:
    stages, _ = data.batch(torch.tensor(texts), LIKE)
    for stage, like in zip(stages, expected(backbone, split, texts), strict=True):
        torch.testing.assert_close(stage, like[:, : stage.shape[1]], rtol=2e-3, atol=2e-3)
        assert not like[:, stage.shape[1] :].any()


def test_texts_are_read_as_if_they_were_padded(backbone: FrozenBackbone, split: Split, tmp_path: Path) -> None:
    for features in (compute(backbone, split, tmp_path), compute(backbone, split, tmp_path)):
        data = features.as_data(3)
        assert_read(data, backbone, split, [11, 0, 5])
        assert_read(ResidentStageData.of(data, torch.device("cpu")), backbone, split, [split.n_images - 1, 3])
        assert_read(data.joined(data), backbone, split, [2, 9])
        twice, _ = data.joined(data).batch(torch.tensor([4, split.n_images + 4, split.n_images + 1]), LIKE)
        assert all(torch.equal(stage[0], stage[1]) for stage in twice)
        assert_read(data.first(6), backbone, split, [5, 1])
        some, _ = data.of_stages([0, 2]).batch(torch.tensor([7, 4]), LIKE)
        whole, _ = data.batch(torch.tensor([7, 4]), LIKE)
        assert [torch.equal(ours, whole[place]) for ours, place in zip(some, (0, 2), strict=True)] == [True, True]
    pooled, _ = data.pooled(slice(-1, None)).batch(torch.tensor([8]), LIKE)
    alone, _ = data.batch(torch.tensor([8]), LIKE)
    for last, stage in zip(pooled, alone, strict=True):
        assert torch.equal(last[0, 0], stage[0, -1])


def test_a_damaged_text_is_computed_again(
    backbone: FrozenBackbone, split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute(backbone, split, tmp_path)
    path = entry(backbone, split, tmp_path) / "stages.f16"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    again = compute(backbone, split, tmp_path)
    assert again.n_computed == 7
    assert "is damaged" in caplog.text
    for start in range(0, split.n_images - 3, 3):
        assert_read(again.as_data(3), backbone, split, [start, start + 1, start + 2])
    assert compute(backbone, split, tmp_path).from_cache


def test_a_killed_pass_continues(
    backbone: FrozenBackbone, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def kill_after(done: int, _n_images: int) -> None:
        if done >= 21:
            raise KilledError

    with pytest.raises(KilledError):
        compute_features(backbone, split, cache_dir=tmp_path, batch_size=7, on_progress=kill_after)
    partial = entry(backbone, split, tmp_path).with_suffix(".partial")
    with (partial / "stages.f16").open("ab") as file:
        file.write(b"half a batch")
    n_missing = n_images_missing(backbone, split, tmp_path, batch_size=7)
    assert n_missing < split.n_images
    features = compute(backbone, split, tmp_path)
    assert features.n_computed == n_missing
    whole = compute(backbone, split, tmp_path / "whole")
    for ours, theirs in zip(features.stages, whole.stages, strict=True):
        assert np.array_equal(ours, theirs)


def as_of_0_10(folder: Path) -> None:
    """Make the header of an entry one of sweep 0.10, which padded all texts of a batch to the longest."""
    header = json.loads((folder / "header.json").read_bytes())
    del header["texts_together"]
    (folder / "header.json").write_text(json.dumps(header))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_two_passes_write_the_same_bytes_on_any_number_of_threads(
    backbone: FrozenBackbone, split: Split, tmp_path: Path, n_threads: int
) -> None:
    compute(backbone, split, tmp_path / "one")
    with computing_on(n_threads):
        compute(backbone, split, tmp_path / "other")
    one, other = (contents(entry(backbone, split, tmp_path / name)) for name in ("one", "other"))
    assert one == other


def test_a_pass_that_sweep_0_10_began_starts_anew(backbone: FrozenBackbone, split: Split, tmp_path: Path) -> None:
    """Half of an entry would have features that were rounded otherwise."""
    cache, whole = tmp_path / "cache", tmp_path / "whole"

    def stop(done: int, _n_images: int) -> None:
        if done >= 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_features(backbone, split, cache_dir=cache, batch_size=7, on_progress=stop)
    as_of_0_10(entry(backbone, split, cache).with_suffix(".partial"))
    assert n_images_missing(backbone, split, cache, batch_size=7) == split.n_images
    assert compute(backbone, split, cache).n_computed == split.n_images
    compute(backbone, split, whole)
    assert contents(entry(backbone, split, cache)) == contents(entry(backbone, split, whole))


def test_a_complete_entry_of_sweep_0_10_is_kept_and_a_damaged_one_computed_again_as_a_whole(
    backbone: FrozenBackbone, split: Split, tmp_path: Path
) -> None:
    compute(backbone, split, tmp_path)
    folder = entry(backbone, split, tmp_path)
    as_of_0_10(folder)
    assert compute(backbone, split, tmp_path).from_cache
    (folder / "stages.f16").write_bytes((folder / "stages.f16").read_bytes()[:-1])
    assert compute(backbone, split, tmp_path).n_computed == split.n_images


def test_an_entry_of_sweep_0_3_still_opens(backbone: FrozenBackbone, split: Split, tmp_path: Path) -> None:
    """Sweep 0.3 stored every text padded to L tokens."""
    folder = entry(backbone, split, tmp_path)
    folder.mkdir(parents=True)
    stages = expected(backbone, split, list(range(split.n_images)))
    content = torch.stack(list(stages), dim=1).half().numpy()
    lengths = stages.lengths.tolist()
    (folder / "stages.f16").write_bytes(content.tobytes())
    checksum = zlib.crc32(json.dumps(lengths).encode(), zlib.crc32(content.tobytes()))
    record = {"start": 0, "stop": split.n_images, "lengths": lengths, "crc32": checksum}
    (folder / "batches.jsonl").write_text(json.dumps(record) + "\n")
    header = {"format": 1, "shape": list(content.shape), "batch_size": split.n_images}
    (folder / "header.json").write_text(json.dumps(header))
    features = compute(backbone, split, tmp_path)
    assert features.from_cache
    assert_read(features.as_data(3), backbone, split, [11, 0, 5])
