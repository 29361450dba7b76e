"""Tools of the fuzz tests: damage to files, and readers that may fail with a `SweepError` only."""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep import SweepError

TOKENS = (
    *(
        b"null",
        b"true",
        b"-1",
        b"0",
        b"7",
        b"1e999",
        b"NaN",
        b'"',
        b"{}",
        b"[]",
        b"{",
        b"]",
        b",",
        b":",
        b"\n",
        b"\r\n",
    ),
    *(
        b"99999999999999999999",
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\xff",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
    ),
    *(b" ", b"..", b"/", b"\\u0000", b"\\ud800", b"pickle", b"\x80\x04."),
)


@dataclass(frozen=True)
class Reader:
    """A function to fuzz and its inputs.

    It must read all of `intact`. The two numbers count the inputs of each test.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Path, Any], object]
    n_fast: int
    n_full: int
    intact: Sequence[Any]


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Draw one of `originals` with one to five edits: bytes changed, removed, inserted, doubled, or the end cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    edits = st.tuples(
        st.sampled_from(["set", "insert", "token", "token over", "cut", "double", "truncate"]),
        st.integers(0, max(1, len(content))),
        st.integers(1, 32),
        st.binary(min_size=1, max_size=6),
        st.sampled_from(TOKENS),
    )
    for kind, at, length, some, token in draw(st.lists(edits, min_size=1, max_size=5)):
        if kind == "set":
            content[at : at + len(some)] = some
        elif kind == "insert":
            content[at:at] = some
        elif kind == "token":
            content[at:at] = token
        elif kind == "token over":
            content[at : at + length] = token
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "double":
            content[at:at] = content[at : at + length]
        else:
            del content[at:]
    return bytes(content)


def parquet(table: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


def fuzz(reader: Reader, folder: Path, n_inputs: int) -> int:
    """Read `n_inputs` inputs and return how many were read. Any error other than a `SweepError` is raised."""
    n_read = 0

    @settings(
        max_examples=n_inputs, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(reader.inputs)
    def read(content: Any) -> None:
        nonlocal n_read
        n_read += 1
        with contextlib.suppress(SweepError):
            reader.read(folder, content)

    read()
    return n_read


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def wrong_entries(draw: st.DrawFn, original: dict[str, Any]) -> bytes:
    """Draw a well-formed JSON object in which a few entries are missing or have another type or value."""
    changed = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, 3))):
        place = changed
        for _ in range(draw(st.integers(0, 2))):
            deeper = [value for value in place.values() if isinstance(value, dict) and value]
            place = draw(st.sampled_from(deeper)) if deeper else place
        name = draw(st.sampled_from(sorted(place)))
        if draw(st.booleans()):
            place[name] = draw(JSON_VALUES)
        elif len(place) > 1:
            del place[name]
    return json.dumps(changed).encode()
