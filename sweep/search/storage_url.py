"""URLs of Optuna storages as they may be shown: without passwords."""

import re
from urllib.parse import unquote, unquote_plus

from sweep.errors import UsageError

HIDDEN = "***"

SHORTEST_REPLACED = 4
"""A shorter password is hidden in its URL only: in other texts its letters are part of many words."""

_FILE = re.compile(r"sqlite(\+\w+)?:///")
_USER_PART = re.compile(
    r"^(?P<before>(?:[\w+.-]+:/+)?+[^:/?]*:)"  # scheme and user
    r"(?:(?P<password>(?:(?!\?\w+=).)*)(?P<after>@)|(?P<unclear>[^@]*@.*))",  # up to the last @ before the query
    re.DOTALL,
)
_OPTION = re.compile(r"(?P<name>[?&][^=&]*)=(?P<value>[^&]*)")
_SECRET_OPTION = re.compile(r"(password|passwd|pwd)$", re.IGNORECASE)


def shown_url(url: str) -> str:
    """The URL of a storage as it may be printed and recorded: without its passwords.

    Also what is no valid URL is shown without its passwords. If it is unclear where a password ends, more is hidden.
    """
    if not _FILE.match(url):
        url = _USER_PART.sub(rf"\g<before>{HIDDEN}\g<after>", url)
    return _OPTION.sub(lambda found: f"{found['name']}={HIDDEN}" if _is_secret(found) else found[0], url)


def _is_secret(option: re.Match[str]) -> bool:
    return _SECRET_OPTION.search(unquote(option["name"])) is not None


def without_passwords(text: str, url: str) -> str:
    """A text about a storage, without the passwords of its URL."""
    text = text.replace(url, shown_url(url))
    for password in sorted(_passwords(url), key=len, reverse=True):
        if len(password) >= SHORTEST_REPLACED:
            text = text.replace(password, HIDDEN)
    return text


def _passwords(url: str) -> set[str]:
    """The passwords of a URL, as they are typed and as the server is sent them."""
    user_part = None if _FILE.match(url) else _USER_PART.match(url)
    typed = set(user_part.group("password", "unclear")) - {None} if user_part else set()
    in_query = {option["value"] for option in _OPTION.finditer(url) if _is_secret(option)}
    return typed | {unquote(password) for password in typed} | in_query | {unquote_plus(one) for one in in_query}


def check_user_part(url: str) -> None:
    """Check that the end of a password in the user part is clear. A part of it would be taken for the host.

    Raises:
        UsageError: It is not.
    """
    found = None if _FILE.match(url) else _USER_PART.match(url)
    if found is not None and (found["unclear"] or "@" in found["password"]):
        raise UsageError(
            f"--storage {shown_url(url)}: it is not clear where the password ends. Write @ in a password as %40, / as "
            f"%2F and ? as %3F, or use PGPASSWORD"
        )
