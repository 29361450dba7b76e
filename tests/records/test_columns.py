"""Values of any type become columns that parquet can store and read back."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sweep.records.columns import uniform_columns


@pytest.mark.parametrize(
    ("values", "expected", "is_text"),
    [
        ([1, 2], [1, 2], False),
        ([1, None], [1.0, None], False),
        ([1, 2.5], [1.0, 2.5], False),
        ([True, False], [True, False], False),
        (["a", None], ["a", None], False),
        ([None, None], [None, None], False),
        ([1, "a"], ["1", "a"], True),
        ([True, 1], ["True", "1"], True),
        ([2**70, 1], [str(2**70), "1"], True),
        ([2**60 + 1, None], [str(2**60 + 1), None], True),
        ([2**60 + 1, 3], [2**60 + 1, 3], False),
        (["\ud800", "é"], ["\\ud800", "é"], False),
        ([{"a": [1]}, [2]], ['{"a": [1]}', "[2]"], True),
    ],
)
def test_a_column_of_any_values(values: list[Any], expected: list[Any], is_text: bool, tmp_path: Path) -> None:
    columns, made_text = uniform_columns([{"x": value} for value in values], ["x"])
    assert made_text == ["x"] * is_text
    pd.DataFrame(columns).to_parquet(tmp_path / "table.parquet")
    found = pd.read_parquet(tmp_path / "table.parquet")["x"]
    assert [None if pd.isna(value) else value for value in found] == expected
