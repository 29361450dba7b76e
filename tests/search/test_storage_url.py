"""Passwords in the URLs of Optuna storages."""

import re
from urllib.parse import unquote

import pytest

from sweep import UsageError
from sweep.search.data_base import cannot_open, open_data_base
from sweep.search.storage_url import shown_url, without_passwords

URLS = [
    ("postgresql://me:{}@host:5432/trials", "secret"),
    ("postgresql://me:{}@host/trials", "sec%2Fr%40et"),
    ("postgresql://me:{}@host:no-port/trials", "secret"),
    ("postgresql://me:{}@127.0.0.1:1/db", "Tr0ub@dor3"),
    ("postgresql://me:{}@host/db?sslmode=require", "Tr0@b:dor3"),
    ("postgresql://me:{}@host/db", "Tr0/b/dor3"),
    ("postgresql://me:{}@host/db", "Tr0@b/dor3"),
    ("postgresql://me:{}@host/db", "Tr0?b"),
    ("postgresql://me:{}", "Tr0?b=dor3@host/db"),
    ("postgresql://me@host:{}", "1/db?password=Tr0@b"),
    ("postgresql://me@corp:{}@host/db", "secret"),
    ("postgresql://me@host/trials?password={}&sslmode=require", "secret"),
    ("postgresql://me@host/trials?password={}", "Tr0@b:dor3"),
    ("postgresql://me@host/trials?sslpassword={}", "secret"),
    ("mysql://me@host/trials?passwd={}", "secret"),
    ("postgresql://me@host/trials?p%61ssword={}", "secret"),
    ("postgresql:/me:{}@host/db", "secret"),
    ("postgresql:///me:{}@host/db", "secret"),
    ("me:{}@host/db", "Tr0@b:dor3"),
    ("postgresql//me:{}@host/db", "secret"),
    ("postgresql://me:{}", "secret%40host/db"),
    ("postgresql:///db?host=host&oauth_client_secret={}", "Tr0ub"),
    ("postgresql://me@host/db#password={}", "secret"),
    ("host=host user=me password={}", "secret"),
    ("host=host;pwd={}", "secret"),
    ("mssql+pyodbc:///?odbc_connect={}&x=y", "SERVER%3Dhost%3BUID%3Dme%3BPWD%3Dsecret%3B"),
]


@pytest.mark.parametrize(("url", "password"), URLS)
def test_urls_and_reasons_are_shown_without_their_password(url: str, password: str) -> None:
    typed, shown = url.format(password), url.format("***")
    assert shown_url(typed) == shown
    text = str(cannot_open(typed, RuntimeError(f"cannot use {typed} with {password} ({unquote(password)})")))
    assert f"--storage {shown} cannot be opened: cannot use {shown} with *** (***)." in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@host:5432/trials",
        "postgresql://host:5432/trials?user=me&host=/tmp",
        "postgresql://[::1]:5432/trials?user=a%40b&application_name=a%3Db",
        "sqlite:////tmp/a:b@c/trials.db",
        "no url",
    ],
)
def test_urls_without_a_password_are_shown_whole(url: str) -> None:
    assert shown_url(url) == url


def test_decoded_passwords_are_hidden_and_short_ones_spoil_no_words() -> None:
    text = "no user me with the password s/cr@t on host"
    assert without_passwords(text, "postgresql://me:s%2Fcr%40t@host/db") == text.replace("s/cr@t", "***")
    assert without_passwords(text, "postgresql://me@host/db?password=s%2Fcr%40t") == text.replace("s/cr@t", "***")
    for short in ("", "t", "the"):
        assert without_passwords(text, f"postgresql://me:{short}@host/db") == text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:Tr0ub@dor3@127.0.0.1:1/db",
        "postgresql://me:Tr0ub@b:dor3@127.0.0.1/db",
        "postgresql://me:Tr0ub@b/dor3@127.0.0.1/db",
        "postgresql://me@127.0.0.1:1/db?password=Tr0ub@dor3",
    ],
)
def test_a_password_whose_end_is_unclear_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"Write @ in a password as %40, .* PGPASSWORD") as caught:
        open_data_base(url)
    assert not re.search("Tr0ub|dor3", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("url", ["postgresql:/me:secret@host/db", "me:secret@host/db"])
def test_what_is_no_url_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be opened: .* Give a URL such as sqlite:///trials\.db") as caught:
        open_data_base(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_default_install_gets_one_line_that_says_what_to_install(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r'needs the package psycopg; install it: python -m pip install -e "\.\[cluster\]"'
    ) as caught:
        open_data_base(f"{scheme}://me:secret@host/trials")
    assert "secret" not in str(caught.value)
