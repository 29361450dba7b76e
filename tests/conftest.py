"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sweep's cache: the user's own where `SWEEP_CACHE_DIR` names one, so that downloads are made once."""
    named = os.environ.get("SWEEP_CACHE_DIR")
    return Path(named) if named else tmp_path_factory.mktemp("sweep_cache")
