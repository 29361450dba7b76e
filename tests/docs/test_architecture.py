"""docs/architecture.md and docs/api.md agree with the code."""

import re
import tomllib
from pathlib import Path

import sweep

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
WINGS = sorted(
    [*(path.parent for path in (ROOT / "sweep").glob("*/__init__.py")), ROOT / "backbones", ROOT / "studies"]
)


def test_every_row_names_one_file_and_one_test_that_exist() -> None:
    rows = re.findall(r"^\| (?!I want|---)(.+?) \| (.+?) \| (.+?) \|$", ARCHITECTURE, re.MULTILINE)
    assert len(rows) > 20
    for wish, code, test in rows:
        for cell, folders in ((code, ("sweep", "backbones", "studies")), (test, ("tests",))):
            (path,) = re.fullmatch(r"`([^`]+)`", cell).groups()  # type: ignore[union-attr]
            assert (ROOT / path).is_file(), f"{wish}: {path}"
            assert path.split("/")[0] in folders, f"{wish}: {path}"


def test_every_path_that_is_named_exists() -> None:
    paths = re.findall(r"`((?:sweep|backbones|studies|tests|docs)/[\w/.]*)`", ARCHITECTURE)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_import_order_is_that_of_the_contract() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", ARCHITECTURE, re.DOTALL)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (one for one in project["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    assert shown.splitlines() == contract["layers"]


def test_the_picture_or_its_text_names_every_wing() -> None:
    for wing in WINGS:
        name = str(wing.relative_to(ROOT))
        assert f"<b>{name}</b>" in ARCHITECTURE or f"`{name}`" in ARCHITECTURE, name


def test_every_public_name_has_one_sentence_and_one_link() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+\.) \| \[[^]]+\]\([^)]+\) \|$", API, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(sweep.__all__)
    assert all(getattr(sweep, name) for name, _ in rows)
