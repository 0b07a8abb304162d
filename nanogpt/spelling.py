"""How addresses and file names from outside are written down: without passwords, in valid Unicode."""

import os
import re
from pathlib import Path

_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#]*@")
_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


def redacted(text: str) -> str:
    """`text` with `***` in place of the user and password of every URL in it."""
    return _CREDENTIALS.sub("***@", text)


def is_redacted(text: str) -> bool:
    """Whether `redacted` hid something in `text`: what is left is to be read, not to be used."""
    return "://***@" in text


def to_be_typed(command: str) -> str:
    """A command as it is shown to a person; where `redacted` hid a password, with a line that says what to do."""
    return command + ("\n  # type the password in place of ***: it is not kept" if is_redacted(command) else "")


def spelled(path: str | Path) -> str:
    r"""A file name as text that any file, terminal and database takes. `path_of` gives the name back.

    Bytes that are not UTF-8 become \xNN, and a backslash two of them.
    """
    return os.fsencode(path).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def path_of(text: str) -> Path:
    """The path that `spelled` wrote as `text`."""
    named = _ESCAPE.sub(lambda match: b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)]), text.encode())
    return Path(os.fsdecode(named))
