"""Limits of what a hub may answer. huggingface_hub reads every answer whole: one without an end takes all memory."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from nanogpt.sources.part import STANDSTILL_SECONDS, Unobtainable
from nanogpt.units import MIB, byte_size

LARGEST_ANSWER = 256 * MIB  # a list of a million files; of a file, the range that was asked for
SLOWEST = 1000  # bytes a second, after STANDSTILL_SECONDS
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@cache
def limit_answers() -> None:
    """Of all that huggingface_hub asks from now on in this process."""
    with suppress(ImportError):  # before 1.0 it has requests for it
        from huggingface_hub import set_client_factory
        from huggingface_hub.utils._http import default_client_factory

        def limited() -> Any:  # of httpx or httpx2, as huggingface_hub has it
            client = default_client_factory()
            client.headers["Accept-Encoding"] = "identity"  # a small compressed answer may be a large one
            client.event_hooks["response"].append(_limit)
            return client

        set_client_factory(limited)


def _limit(response: Any) -> None:
    """Raises Unobtainable, here or while the response is read."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise Unobtainable("sends it compressed, which was not asked for")
    asked = _RANGE.fullmatch(response.request.headers.get("Range", ""))
    most = int(asked[2]) - int(asked[1]) + 1 if asked and response.status_code == 206 else LARGEST_ANSWER
    library = sys.modules[type(response).__module__.partition(".")[0]]
    stream = response.stream

    class Limited(library.SyncByteStream):  # type: ignore[misc,name-defined]  # of whichever library it is
        def __iter__(self) -> Iterator[bytes]:
            yield from _limited(stream, most)

        def close(self) -> None:
            stream.close()

    response.stream = Limited()


def _limited(stream: Any, most: int) -> Iterator[bytes]:
    began, came = time.monotonic(), 0
    for part in stream:
        came += len(part)
        seconds = time.monotonic() - began
        if came > most:
            raise Unobtainable(f"sends more than the {byte_size(most)} that were asked for")
        if seconds > STANDSTILL_SECONDS and came < SLOWEST * seconds:
            raise Unobtainable(f"sent {byte_size(came)} in {seconds:.0f} s")
        yield part
