"""URLs of Optuna storages as they may be shown: without passwords."""

import re
from urllib.parse import unquote, unquote_plus

from sweep.errors import UsageError

HIDDEN = "***"

SHORTEST_REPLACED = 4
"""A shorter password is hidden in its URL only: in other texts its letters are part of many words."""

_FILE = re.compile(r"sqlite(\+\w+)?:///")
_USER_PART = re.compile(
    r"^(?P<before>(?:[\w+.-]*:?/+)?+[^:/?]*:)"  # scheme and user
    r"(?:(?P<password>(?:(?!\?\w+=).)*)(?P<after>@)"  # up to the last @ before the query
    r"|(?P<unclear>[^@]*@.*|[^@/?]*%40.*))",
    re.DOTALL,
)
_NAME = re.compile(r"(?:^|[?&;#\s])(?P<name>[^?&;#\s=]+)\s*=")
_SECRET = re.compile(r"(password|passwd|pwd|passphrase|secret|token)$", re.IGNORECASE)


def shown_url(url: str) -> str:
    """The URL of a storage as it may be printed and recorded: without its passwords.

    Also what is no valid URL is shown without its passwords. If it is unclear where a password ends, more is hidden.
    """
    if not _FILE.match(url):
        url = _USER_PART.sub(rf"\g<before>{HIDDEN}\g<after>", url)
    shown, end = "", 0
    for first, last in _secret_values(url):
        shown += url[end:first] + HIDDEN
        end = last
    return shown + url[end:]


def _secret_values(text: str) -> list[tuple[int, int]]:
    """Where the values of secret options begin and end: in a URL's query, or in text such as `host=db password=…`.

    An option whose value has such options in turn is secret as a whole, as `odbc_connect` may be. A value ends at `&`,
    because a password may have any other character.
    """
    spans: list[tuple[int, int]] = []
    for found in _NAME.finditer(text):
        first, last = found.end(), (text.find("&", found.end()) + 1 or len(text) + 1) - 1
        inner = text[first:last]
        is_secret = _SECRET.search(unquote(found["name"])) or ("%" in inner and _secret_values(unquote(inner)))
        if is_secret and (not spans or first >= spans[-1][1]):
            spans.append((first, last))
    return spans


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
    in_query = {url[first:last] for first, last in _secret_values(url)}
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
            f"%2F and ? as %3F, but the @ before the host as it is; or use PGPASSWORD"
        )
