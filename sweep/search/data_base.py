"""Optuna storages in a data base: how they are opened, and what their failures mean."""

import importlib.util
import re
from typing import TYPE_CHECKING

from optuna.storages import BaseStorage, get_storage

from sweep.errors import UsageError
from sweep.search.lasting_storage import LastingStorage
from sweep.search.storage_url import check_user_part, shown_url, without_passwords

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

EXAMPLES = "sqlite:///trials.db or postgresql://USER@HOST/DATABASE"


def open_data_base(url: str) -> BaseStorage:
    """The Optuna storage at a URL.

    Raises:
        UsageError: It cannot be opened, with the reason and what to type.
    """
    try:
        parsed = _parsed(url)
        if parsed.get_backend_name() == "sqlite":
            return get_storage(url)
        address = parsed.render_as_string(hide_password=False)
        return get_storage(LastingStorage(address))  # keeps what was read in memory
    except UsageError:
        raise
    except Exception as error:  # SQLAlchemy, a driver, or the network
        raise cannot_open(url, error) from error


def _parsed(url: str) -> "URL":
    """The URL, a PostgreSQL data base with the driver psycopg unless the URL names another.

    Raises:
        UsageError: The driver is not installed, or it is not clear where the password ends.
        ArgumentError: It is no URL.
    """
    from sqlalchemy.engine import make_url

    check_user_part(url)
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        if importlib.util.find_spec("psycopg") is None and importlib.util.find_spec("psycopg2") is not None:
            return parsed.set(drivername="postgresql+psycopg2")
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "postgresql+psycopg" and importlib.util.find_spec("psycopg") is None:
        raise UsageError(
            f'--storage {shown_url(url)} needs the package psycopg; install it: python -m pip install -e ".[cluster]"'
        )
    return parsed


def cannot_open(url: str, error: Exception) -> UsageError:
    """The error of a storage that cannot be opened, with what to type where that is known."""
    lines = str(error).splitlines() or [type(error).__name__]
    reason = without_passwords(lines[0], url)
    remedy = _remedy(url, str(error)) or f"Give a URL such as {EXAMPLES}"
    return UsageError(f"--storage {shown_url(url)} cannot be opened: {reason}. {remedy}")


def _remedy(url: str, reason: str) -> str:
    """What to type against some failures of a PostgreSQL server."""
    try:
        parsed = _parsed(url)
    except Exception:  # it is no URL
        return ""
    if parsed.get_backend_name() != "postgresql":
        return ""
    host, port = parsed.query.get("host", parsed.host), parsed.query.get("port", parsed.port)
    where = "".join([f" -h {host}" if host else "", f" -p {port}" if port else ""])
    user = f" -U {parsed.username}" if parsed.username else ""
    remedies = {
        "password authentication failed|no password supplied": "Set PGPASSWORD to the right password, or write it into "
        "~/.pgpass",
        'database "([^"]*)" does not exist': f"Create the data base with createdb{where}{user} {{0}}",
        'role "([^"]*)" does not exist': f"Create the user with createuser{where} {{0}}, or name another one in the "
        f"URL: postgresql://USER@HOST/DATABASE",
        "refused|No such file or directory|translate|timeout|resolve": f"Check with pg_isready{where} whether the "
        f"server runs, and give its host and port in the URL",
    }
    found = ((re.search(pattern, reason), remedy) for pattern, remedy in remedies.items())
    return next((remedy.format(*match.groups()) for match, remedy in found if match), "")


def is_storage_error(error: Exception) -> bool:
    """Whether an error comes from Optuna's storage, or from the data base below it."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"optuna", "sqlalchemy", "psycopg", "psycopg2"})


def first_reason(error: BaseException, url: str | None) -> str:
    """Why a storage failed, in one line: the data base's own words where Optuna wraps them."""
    cause = error.__cause__ or error
    line = (str(cause).splitlines() or [type(cause).__name__])[0]
    return without_passwords(line, url) if url else line
