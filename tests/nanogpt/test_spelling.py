"""Passwords never leave the process, and any file name can be written down and found again."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.spelling import is_redacted, path_of, redacted, spelled, to_be_typed

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    "text, shown",
    [
        ("https://me:secret@host:8080/a?b#c", "https://***@host:8080/a?b#c"),
        ("https://token@host", "https://***@host"),
        ("https://me:se@cret@host/a", "https://***@host/a"),
        ("a,http://u:p@b/c and ftp://u:p@d", "a,http://***@b/c and ftp://***@d"),
        ("https://host/a@b", "https://host/a@b"),
        ("me@host /path", "me@host /path"),
    ],
)
def test_users_and_passwords_of_addresses_are_hidden(text, shown):
    assert redacted(text) == shown == redacted(shown)
    assert is_redacted(shown) == (shown != text) and not is_redacted(text)
    assert ("type the password in place of ***" in to_be_typed(shown)) == (shown != text)


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_any_file_name_is_valid_unicode_and_is_found_again(name):
    path = Path(os.fsdecode(name))
    text = spelled(path)
    text.encode("utf-8")
    assert path_of(text) == path


def test_an_ordinary_name_is_written_as_it_is():
    assert spelled("/data/Ærø – текст.txt") == "/data/Ærø – текст.txt"
    assert spelled(os.fsdecode(b"caf\xe9.txt")) == "caf\\xe9.txt"
    assert spelled("a\\b") == "a\\\\b"
