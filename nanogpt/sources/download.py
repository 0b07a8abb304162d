"""One file over HTTP: resumed where it broke off, given up in time, and used only when its sha256 is right.

What has arrived is kept next to the file as `<file>.part`, with its source in `<file>.part.json`: a cut connection, a
kill or a full disk loses none of it. The next attempt asks for the rest (RFC 9110, sections 13.1.5 and 14), from the
same place or another. Whatever the server answers, the whole file is hashed before it is used, and wrong bytes are
dropped. Messages and notes hold no password (spelling.redacted).
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field

import requests
from requests import Response
from requests.structures import CaseInsensitiveDict

from nanogpt.sources.part import Notify, Part, Unobtainable, say_nothing
from nanogpt.spelling import redacted, spelled

ATTEMPTS = 3
PAUSE_SECONDS = 0.3  # before the second attempt, twice as long before the third
# Waiting for answers, in all, while nobody has given one: a machine without network must fall back within 10 s.
ANSWER_SECONDS = 8.0
# Less than this over a whole window counts as a server that hangs (tiny Shakespeare at this rate: 2.3 minutes).
LEAST_BYTES_PER_SECOND = 8 << 10
WINDOW_SECONDS = 15.0
CHUNK = 4 << 10  # bytes: small, so that a trickle is seen as it is
TRY_AGAIN = (408, 425, 429)  # of the answers 4xx: too slow, too early, too many requests


class Refused(Unobtainable):
    """An answer that another attempt at the same place would not change."""


@dataclass
class Patience:
    """Seconds left for first answers while no place has answered; after that, each place has its own."""

    seconds: float = field(default_factory=lambda: ANSWER_SECONDS)
    answered: bool = False

    def for_place(self, last: bool) -> float:
        """Half of what is left if others follow: a silent place must leave the others their turn."""
        if self.answered:
            return ANSWER_SECONDS
        return self.seconds if last else self.seconds / 2

    def wait(self, seconds: float) -> None:
        if not self.answered:
            self.seconds -= seconds


def download(url: str, part: Part, patience: Patience, last: bool, notify: Notify = say_nothing) -> None:
    """Complete `part` from `url` and move it to its place, in ATTEMPTS attempts. `last`: no other place follows.

    Raises Unobtainable with what stopped the last attempt (`notify` gets the others); OSError (a full disk) as it is.
    What arrived is kept.
    """
    seconds, pause = patience.for_place(last), PAUSE_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        began = time.monotonic()
        transfer = _Transfer(url, part)
        try:
            transfer.go(seconds, patience)
            return
        except Refused:
            raise
        except Unobtainable as error:
            if transfer.heard:
                seconds = ANSWER_SECONDS
            else:
                seconds -= time.monotonic() - began + pause
            if attempt == ATTEMPTS or seconds <= 0:
                times = f", {attempt} times" if attempt > 1 else ""
                raise Unobtainable(f"{error}{times}") from error.__cause__
            if transfer.heard:  # silence is reported once for each place
                notify(str(error), f"asked again from byte {part.arrived():,} on")
        patience.wait(pause)
        time.sleep(pause)
        pause *= 2


class _Transfer:
    """One attempt, in its own thread: no socket timeout bounds the look-up of a name or a trickling server."""

    def __init__(self, url: str, part: Part):
        self.url, self.part, self.host = url, part, redacted(url).split("/")[2].removeprefix("***@")
        self.answered, self.ended = threading.Event(), threading.Event()
        self.heard = False  # a server answered
        self.received = 0
        self.error: Exception | None = None
        self._given_up, self._writing = False, threading.Lock()

    def go(self, seconds: float, patience: Patience) -> None:
        """Raises Unobtainable when nothing answers within `seconds`, comes too slowly or is wrong; OSError."""
        began = time.monotonic()
        threading.Thread(target=self._run, name=f"download from {self.host}", daemon=True).start()
        in_time = self.answered.wait(max(0.0, seconds))
        if self.heard:
            patience.answered = True
        patience.wait(time.monotonic() - began)
        if not in_time:
            self._give_up()
            raise Unobtainable(f"no answer from {self.host}")
        before = 0
        while not self.ended.wait(WINDOW_SECONDS):
            if self.received - before < LEAST_BYTES_PER_SECOND * WINDOW_SECONDS:
                self._give_up()
                raise Unobtainable(f"{self.host} is too slow: {self.received - before:,} bytes in {WINDOW_SECONDS:g} s")
            before = self.received
        if self.error is not None:
            raise self._explained(self.error) from self.error
        if not self.part.take_place():
            sent = f"{self.host} sent wrong bytes" if self.heard else f"{spelled(self.part.path)} was damaged"
            raise Unobtainable(f"{sent} (sha256 differs)")

    def _give_up(self) -> None:
        with self._writing:  # the part is the next attempt's now
            self._given_up = True

    def _run(self) -> None:
        try:
            self.part.check()
            while self.part.arrived() < self.part.size and not self._given_up:
                self._receive()
        except Exception as error:
            self.error = error  # raised again by the thread that waits
        self.ended.set()
        self.answered.set()

    def _receive(self) -> None:
        """One answer: the rest of the file, or a piece of it; then the next piece is asked for."""
        arrived = self.part.arrived()
        with self._ask(arrived) as response:
            with self._writing:
                if self._given_up:
                    return
                arrived, end = self._extent(response, arrived)
            with open(self.part.path, "ab") as file:
                for chunk in response.iter_content(CHUNK):
                    with self._writing:
                        if self._given_up:
                            return
                        file.write(chunk)
                    self.received += len(chunk)
                    arrived += len(chunk)
                    if arrived > end:
                        break
        self._check_length(arrived, end)

    def _ask(self, arrived: int) -> Response:
        # With compression, offsets and lengths would count other bytes than the file's.
        headers = {"Accept-Encoding": "identity"}
        if arrived:
            headers["Range"] = f"bytes={arrived}-"
            if validator := self.part.validator(self.url):
                headers["If-Range"] = validator
        response = requests.get(
            self.url, headers=headers, stream=True, timeout=(ANSWER_SECONDS, max(ANSWER_SECONDS, WINDOW_SECONDS))
        )
        self.heard = True
        self.answered.set()
        return response

    def _extent(self, response: Response, arrived: int) -> tuple[int, int]:
        """Bytes [begin, end) of the file that the body holds; `begin` is what has arrived, or 0 for a new start."""
        end = self.part.size
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        if response.status_code == 416:  # it has less than what is here
            self.part.drop()
            raise Unobtainable(f"{self.host} has no byte {arrived:,} of it")
        if response.status_code == 206:
            sent = response.headers.get("Content-Range", "")
            piece = re.fullmatch(rf"bytes {arrived}-(\d+)/({self.part.size}|\*)", sent)
            end = int(piece[1]) + 1 if piece else 0  # a server may send less than was asked for (RFC 9110, 15.3.7)
            if encoded or not arrived < end <= self.part.size:
                self.part.drop()
                raise Unobtainable(f"{self.host} sends another part of it than was asked for ({sent or 'unnamed'})")
        elif response.status_code == 200:
            arrived = 0
            length = response.headers.get("Content-Length", "")
            if not encoded and length.isdigit() and int(length) != self.part.size:
                is_page = "html" in response.headers.get("Content-Type", "")
                kind = "a web page (of a login?)" if is_page else "another file"
                raise Unobtainable(f"{self.host} sends {kind}: {int(length):,} bytes instead of {self.part.size:,}")
            self.part.drop()
        else:
            response.raise_for_status()
            raise Refused(f"{self.host} answers {response.status_code} {response.reason}")
        self.part.comes_from(self.url, None if encoded else _validator(response.headers))
        return arrived, end

    def _check_length(self, arrived: int, end: int) -> None:
        if arrived > end:
            self.part.drop()
            promised = f"the {end:,} bytes of it" if end == self.part.size else "it announced"
            raise Unobtainable(f"{self.host} sends more than {promised}")
        if arrived < end:
            raise Unobtainable(f"{self.host} cut off after {arrived:,} of {self.part.size:,} bytes")

    def _explained(self, error: Exception) -> Exception:
        """A fault of the network or of an address in a few words; any other error, such as a full disk, as it is."""
        if isinstance(error, requests.HTTPError) and error.response is not None:
            status = error.response.status_code
            kind = Refused if 400 <= status < 500 and status not in TRY_AGAIN else Unobtainable
            return kind(f"{self.host} answers {status} {error.response.reason}")
        if isinstance(error, requests.TooManyRedirects):
            return Refused(f"{self.host} redirects without end")
        if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
            return Refused(f"the proxy for {self.host} is a SOCKS proxy, which needs PySocks: pip install pysocks")
        if isinstance(error, ValueError):  # of the address, of a redirect's or of the proxy's
            return Refused(f"no download from {self.host}: an address, or that of the proxy, is not valid")
        if self.heard and isinstance(error, requests.RequestException):
            return Unobtainable(f"{self.host} cut off after {self.part.arrived():,} of {self.part.size:,} bytes")
        if isinstance(error, requests.exceptions.SSLError):
            return Unobtainable(f"no trusted connection to {self.host} (its certificate does not hold)")
        if isinstance(error, requests.exceptions.ProxyError):
            return Unobtainable(f"no connection to {self.host} through its proxy")
        if isinstance(error, requests.ConnectionError):
            return Unobtainable(f"no connection to {self.host}")
        if isinstance(error, requests.RequestException):
            return Unobtainable(f"the download from {self.host} failed ({type(error).__name__})")
        return error


def _validator(headers: CaseInsensitiveDict[str]) -> str | None:
    """What If-Range may name: a strong entity tag, else the time of the last change (RFC 9110, section 13.1.5)."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")
