"""Another process draws the same images, views and places, and the engine leaves Ray alone until a run asks for it.

All tests read what one process has printed, because such a process takes seconds to import PyTorch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_moved_places import contents
from test_views import augmentation, pixels, split_of

from sweep.data import load_data

HERE = Path(__file__).parent
PROGRAM = f"""
import sys, sweep.running.runner, sweep.workers.ray_pool
found = {{"ray": "ray" in sys.modules, "hash": hash("another in every process")}}
sys.path.insert(0, {str(HERE)!r})
import json, test_another_process
print(json.dumps({{**found, **test_another_process.drawn()}}))
"""


def drawn() -> dict[str, Any]:
    return {
        "views": [pixels(augmentation().view(split_of(), index, 1)).hex() for index in range(2)],
        "places": contents(),
        "count": load_data("count", seed=0, cache_dir=HERE).val.fingerprint,
    }


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    """What another process has printed, with other hashes of texts than this one."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=Path(__file__).parents[2]
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("what", ["views", "places", "count"])
def test_another_process_draws_the_same(printed: dict[str, Any], what: str) -> None:
    assert printed["hash"] != hash("another in every process")
    assert printed[what] == drawn()[what]


def test_ray_is_imported_only_for_a_cluster(printed: dict[str, Any]) -> None:
    assert printed["ray"] is False
