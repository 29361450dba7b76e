"""Fixed trials from a CSV file: one column a parameter, one row a trial."""

from pathlib import Path
from typing import Any

import pandas as pd

from sweep.errors import UsageError


def read_enqueued(path: Path) -> list[dict[str, Any]]:
    """Parameters of every row; an empty cell leaves the parameter to the sampler.

    A table of `sweep results --format csv` may be given as it is: of its columns only those of parameters are read.

    Raises:
        UsageError: The file cannot be read as a table, or has no row.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UsageError(f"--enqueue {path} cannot be read as a CSV table: {error}") from error
    if table.empty:
        raise UsageError(f"--enqueue {path} has no rows; give one column a parameter and one row a trial")
    prefixed = [name for name in table if str(name).startswith("params_")]
    if prefixed:
        table = table[prefixed].rename(columns=lambda name: str(name).removeprefix("params_"))
    rows = table.to_dict("records")
    return [{str(name): _python(value) for name, value in row.items() if not pd.isna(value)} for row in rows]


def _python(value: Any) -> Any:
    """A cell as Optuna takes it: a whole number in a column with empty cells was read as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
