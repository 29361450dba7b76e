"""Values of any type as columns that a parquet table can hold."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

LARGEST_INTEGER = 2**63 - 1
LARGEST_EXACT_FLOAT = 2**53
"""Above this limit, not every whole number can be a float, and a column of integers with gaps becomes floats."""


def uniform_columns(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> tuple[dict[str, pd.Series], list[str]]:
    """Make columns of one type each. Columns with values of several types, or of types that parquet lacks, become text.

    Args:
        rows: Rows of a table. Values are None, bool, int, float, str, lists and mappings. Missing values, None and NaN
            are gaps.
        names: Names of the columns to make.

    Returns:
        The columns by name, and the names of those that became text.
    """
    columns, made_text = {}, []
    for name in names:
        values = [row.get(name) for row in rows]
        present = [value for value in values if not _is_gap(value)]
        if all(isinstance(value, str) for value in present) or not _fits(present, has_gaps=len(present) < len(values)):
            columns[name] = pd.Series([None if _is_gap(v) else text_of(v) for v in values], dtype=object)
            if not all(isinstance(value, str) for value in present):
                made_text.append(name)
        else:
            columns[name] = pd.Series(values)
    return columns, made_text


def text_of(value: Any) -> str:
    """A value as text: JSON for lists and mappings."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return _encodable(str(value))


def _encodable(text: str) -> str:
    """The text, with escapes for the characters that UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_gap(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _fits(present: Sequence[Any], *, has_gaps: bool) -> bool:
    """Whether values make a column of one type without losing a digit."""
    if all(isinstance(value, bool) for value in present):
        return True
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        return False
    integers = [value for value in present if isinstance(value, int)]
    become_floats = has_gaps or len(integers) < len(present)
    return all(abs(value) <= (LARGEST_EXACT_FLOAT if become_floats else LARGEST_INTEGER) for value in integers)
