"""The server's doors: which addresses demand a token, and where it comes from."""

import re

import pytest

from nanogpt.faults import UserError
from nanogpt.serving.settings import Settings, token_from

pytestmark = pytest.mark.fast
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_this_machine_alone_needs_no_token(host):
    assert Settings((), host=host).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "box.example", "", "127.0.0.1.example", "0"])
def test_any_other_address_does(host):
    with pytest.raises(UserError, match="--token-file"):
        Settings((), host=host)
    assert Settings((), host=host, token=TOKEN)


def test_a_file_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("NANOGPT_TOKEN", raising=False)
    assert token_from(None) is None
    monkeypatch.setenv("NANOGPT_TOKEN", "b" * 16)
    assert token_from(None) == "b" * 16
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert token_from(tmp_path / "token") == TOKEN


@pytest.mark.parametrize("token", ["", "short", "two words in it, long", "ünübersehbar-lang", "line\nline\nline\nline"])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(tmp_path, token, monkeypatch):
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path))}.*16 or more"):
        token_from(tmp_path / "token")
    monkeypatch.setenv("NANOGPT_TOKEN", token)
    with pytest.raises(UserError, match="NANOGPT_TOKEN"):
        token_from(None)


def test_a_file_that_is_no_text_holds_no_token(tmp_path):
    (tmp_path / "token").write_bytes(b"\x8f" * 32)
    with pytest.raises(UserError, match="16 or more letters"):
        token_from(tmp_path / "token")
