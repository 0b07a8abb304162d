"""Downloads over a real server on loopback that is slow, cuts off, lies, or does not know of ranges."""

import gzip
import hashlib
import http.server
import re
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanogpt import durable
from nanogpt.sources import download
from nanogpt.sources import part as parts
from nanogpt.sources.download import Patience
from nanogpt.sources.part import Part, Unobtainable
from tests.conftest import free_port
from tests.loopback import serving
from tests.not_a_file import each_kind

TEXT = b"".join(b"%d: the quality of mercy is not strain'd.\n" % number for number in range(900))
OTHER = TEXT[::-1]
TAG = '"v1"'


@contextmanager
def server(*answers):
    """A server whose n-th answer is answers[n](handler), the last one for ever; yields its address and the requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(dict(self.headers))
            answers[min(len(requests), len(answers)) - 1](self)

    with serving(Handler) as address:
        yield f"{address}/play.txt", requests


def sends(body=TEXT, cut=None, tag=TAG, ranges=True, status=None, length=True, waits=None, most=None, **headers):
    """A server of `body` as the standard asks, in so far as the arguments do not forbid it; `most`: of a range."""

    def answer(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        first = int(asked[1]) if asked and ranges and handler.headers.get("If-Range", tag) == tag else 0
        if first >= len(body):
            return handler.send_error(416)
        handler.send_response(status or (206 if first else 200))
        end = min(len(body), first + most) if first and most else len(body)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(body)}")
        if length:
            handler.send_header("Content-Length", str(end - first))
        for name, value in {"ETag": tag, **headers}.items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        rest = body[first : first + cut] if cut is not None else body[first:end]
        handler.wfile.write(rest[: len(rest) // 2])
        handler.wfile.flush()
        if waits:
            waits.wait(60)
        handler.wfile.write(rest[len(rest) // 2 :])

    return answer


def refuses(status):
    return lambda handler: handler.send_error(status)


def part_in(folder) -> Part:
    return Part(Path(folder) / "play.txt", hashlib.sha256(TEXT).hexdigest(), len(TEXT))


def get(url, folder) -> bytes:
    part = part_in(folder)
    download.download(url, part, Patience(), last=True)
    assert not part.path.exists() and not list(Path(folder).glob("*.json"))
    return part.whole.read_bytes()


@pytest.fixture(autouse=True)
def no_waiting_between_attempts(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize(
    "faults",
    [
        [sends(cut=500)],
        [sends(cut=8192), sends(cut=5000)],
        [sends(OTHER), sends(OTHER)],
        [sends(OTHER, cut=8192), sends()],  # the rest of the right file behind the beginning of a wrong one
        [refuses(503), refuses(429)],
        [sends(TEXT + b"more"), sends(TEXT[:-1])],
        [sends(TEXT + b"more", length=False)],
        [sends(cut=8192), sends(OTHER, tag='"v2"'), sends()],
        [sends(cut=8192), refuses(416)],
        [sends(cut=8192), sends(status=206, Content_Range="bytes 7-9/10", ranges=False)],
        [sends(b"<html>Please log in</html>", Content_Type="text/html")],
        [sends(gzip.compress(TEXT)[:-500], Content_Encoding="gzip")],
    ],
    ids=["cut off", "twice", "wrong bytes", "mixed", "unavailable", "wrong length", "endless", "changed meanwhile",
         "no such range", "another range", "a login page", "broken gzip"],
)  # fmt: skip
def test_a_fault_is_followed_by_another_attempt(tmp_path, faults):
    with server(*faults, sends()) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert 2 <= len(requests) <= download.ATTEMPTS


def test_what_has_arrived_is_not_asked_for_again(tmp_path):
    with server(sends(cut=8192), sends()) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert "Range" not in requests[0] and requests[0]["Accept-Encoding"] == "identity"
    assert requests[1]["Range"] == "bytes=8192-" and requests[1]["If-Range"] == TAG


def test_a_server_that_sends_less_than_was_asked_for_is_asked_on(tmp_path):
    with server(sends(cut=8192), sends(most=5000)) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert [request["Range"] for request in requests[1:]] == [f"bytes={at}-" for at in range(8192, len(TEXT), 5000)]
    assert len(requests) > 1 + download.ATTEMPTS


@pytest.mark.parametrize("piece", [sends(most=5000, cut=3000), sends(most=5000, cut=6000, length=False)])
def test_a_piece_of_another_length_than_it_said_is_a_fault(tmp_path, piece):
    with server(sends(cut=8192), piece, sends()) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert len(requests) == 3


def test_another_place_goes_on_where_the_first_broke_off(tmp_path):
    with server(sends(cut=4096)) as (first, asked), server(sends(tag='"another"')) as (second, requests):
        with pytest.raises(Unobtainable, match=rf"cut off after 12,288 of {len(TEXT):,} bytes, 3 times"):
            download.download(first, part_in(tmp_path), Patience(), last=False)
        assert get(second, tmp_path) == TEXT
    assert len(asked) == 3 and requests[0]["Range"] == "bytes=12288-" and "If-Range" not in requests[0]


@pytest.mark.parametrize("weak", ['W/"v1"', None])
def test_a_weak_tag_says_nothing_of_bytes(tmp_path, weak):
    with server(sends(cut=8192, tag=weak, Last_Modified="then"), sends(tag="then")) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert requests[1]["If-Range"] == "then"


def test_a_server_without_ranges_starts_over(tmp_path):
    with server(sends(cut=8192), sends(ranges=False)) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert len(requests) == 2


def test_compressed_all_the_same(tmp_path):
    with server(sends(gzip.compress(TEXT), Content_Encoding="gzip")) as (url, _):
        assert get(url, tmp_path) == TEXT


def test_wrong_bytes_are_never_kept(tmp_path):
    with server(sends(OTHER)) as (url, requests), pytest.raises(Unobtainable, match=r"wrong bytes .*, 3 times"):
        get(url, tmp_path)
    assert len(requests) == download.ATTEMPTS and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer, words",
    [
        (refuses(404), "answers 404 Not Found"),
        (sends(status=302, Location="/play.txt"), "redirects without end"),
        (sends(status=204), "answers 204"),
    ],
)
def test_what_another_attempt_would_not_change_is_asked_for_once(tmp_path, answer, words):
    with server(answer) as (url, requests), pytest.raises(Unobtainable, match=words):
        get(url, tmp_path)
    assert len(requests) == 1 or "redirects" in words


def test_a_login_page_is_named(tmp_path):
    page = sends(b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")
    with server(page) as (url, _), pytest.raises(Unobtainable, match=r"a web page .* instead of"):
        get(url, tmp_path)


def test_a_slow_server_is_waited_for_as_long_as_bytes_come(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(download, "LEAST_BYTES_PER_SECOND", 2)

    def slowly(handler):
        handler.send_response(200)
        handler.end_headers()
        for first in range(0, len(TEXT), 5000):
            handler.wfile.write(TEXT[first : first + 5000])
            time.sleep(0.2)

    with server(slowly) as (url, requests):
        assert get(url, tmp_path) == TEXT
    assert len(requests) == 1


def test_a_trickle_is_given_up_and_the_next_attempt_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.5)
    hanging = threading.Event()
    try:
        with server(sends(waits=hanging), sends()) as (url, requests):
            assert get(url, tmp_path) == TEXT
        assert int(requests[1]["Range"].removeprefix("bytes=").removesuffix("-")) > 0
    finally:
        hanging.set()


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.2)
    silent = threading.Event()
    try:
        with server(lambda handler: silent.wait(60)) as (url, _), pytest.raises(Unobtainable, match="no answer"):
            get(url, tmp_path)
    finally:
        silent.set()


def test_a_silent_place_leaves_the_others_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ANSWER_SECONDS", 1.0)
    patience, silent = Patience(), threading.Event()
    try:
        with server(lambda handler: silent.wait(60)) as (url, _), pytest.raises(Unobtainable, match="no answer"):
            download.download(url, part_in(tmp_path), patience, last=False)
    finally:
        silent.set()
    assert 0 < patience.for_place(last=True) <= 0.5
    with server(sends()) as (url, _):
        download.download(url, part_in(tmp_path), patience, last=True)
    assert patience.for_place(last=False) == 1.0, "somebody answered: there is a network"


def test_a_password_of_the_address_is_sent_and_stands_in_no_message_note_or_thread_name(tmp_path):
    messages, names = [], []

    def answer(handler):
        names.extend(thread.name for thread in threading.enumerate())
        sends(cut=8192)(handler)

    with server(answer, refuses(404)) as (url, requests):
        url = url.replace("http://", "http://me:se%40cret@")
        with pytest.raises(Unobtainable) as caught:
            download.download(
                url, part_in(tmp_path), Patience(), last=True, notify=lambda *words: messages.append(words)
            )
        assert part_in(tmp_path).validator(url) == TAG, "it is known where the part came from all the same"
    assert all(request["Authorization"].startswith("Basic ") for request in requests)
    shown = f"{messages} {caught.value} {names} {(tmp_path / 'play.txt.part.json').read_text()}"
    assert "127.0.0.1" in shown and "cret" not in shown and "me:" not in shown


def test_an_unusable_proxy_is_one_line_and_no_proxy_is_honoured(tmp_path, monkeypatch):
    for name in ("http_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with server(sends()) as (url, requests):
        for proxy, words in (
            ("http://me:secret@127.0.0.1:1", "through its proxy"),
            ("http://[bad", "not valid"),
            *([] if find_spec("socks") else [("socks5://me:secret@127.0.0.1:1", "SOCKS .* pip install pysocks")]),
        ):
            monkeypatch.setenv("ALL_PROXY", proxy)
            with pytest.raises(Unobtainable, match=words) as caught:
                get(url, tmp_path)
            assert "\n" not in str(caught.value) and "secret" not in str(caught.value) and not requests
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert get(url, tmp_path) == TEXT


@pytest.mark.parametrize("host", ["[bad", "a b", "h:99999999", "a" * 300, ".x"])
def test_an_address_that_is_none_is_one_line(tmp_path, host):
    with pytest.raises(Unobtainable, match="not valid"):
        get(f"http://{host}/play.txt", tmp_path)


def test_nobody_listens(tmp_path):
    with pytest.raises(Unobtainable, match=r"no connection to 127\.0\.0\.1"):
        get(f"http://127.0.0.1:{free_port()}/play.txt", tmp_path)


def test_a_full_disk_is_named_and_the_part_kept(tmp_path, monkeypatch):
    with server(sends(cut=8192), sends()) as (url, requests):
        with monkeypatch.context() as patch:
            patch.setattr(download, "ATTEMPTS", 1)
            with pytest.raises(Unobtainable):
                get(url, tmp_path)
            patch.setattr(download, "open", full, raising=False)
            with pytest.raises(OSError, match="No space left"):
                get(url, tmp_path)
        assert get(url, tmp_path) == TEXT
    assert requests[-1]["Range"] == "bytes=8192-"


def full(path, mode):
    """/dev/full: every write fails, as the system has it."""
    return open("/dev/full", mode, buffering=0)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=2), ranges=st.booleans(), tags=st.booleans())
def test_wherever_it_is_cut_the_right_bytes_come_out(cuts, ranges, tags):
    tag = TAG if tags else None
    answers = [sends(cut=cut, ranges=ranges, tag=tag) for cut in cuts]
    with TemporaryDirectory() as folder, server(*answers, sends(ranges=ranges, tag=tag)) as (url, _):
        assert get(url, folder) == TEXT


@settings(max_examples=25)
@given(
    part=st.one_of(st.binary(max_size=300), st.integers(0, len(TEXT)).map(lambda size: TEXT[:size]),
                   st.integers(1, 50).map(lambda more: TEXT + b"x" * more)),
    note=st.sampled_from(["right", "of another file", "half", "a list", "none", "a folder"]),
)  # fmt: skip
def test_whatever_is_there_as_a_part_the_right_bytes_come_out(part, note):
    with TemporaryDirectory() as folder, server(sends()) as (url, _):
        kept = part_in(folder)
        kept.comes_from(url, TAG)
        right = durable.read_json(kept._note)
        kept.drop()
        kept.path.write_bytes(part)
        if note == "a folder":
            kept._note.mkdir()
        elif note != "none":
            content = {"right": right, "of another file": {**right, "sha256": "0"}, "a list": [], "half": right}[note]
            durable.write_json(kept._note, content)
            if note == "half":
                kept._note.write_bytes(kept._note.read_bytes()[:20])
        download.download(url, part_in(folder), Patience(), last=True)
        assert kept.whole.read_bytes() == TEXT


CHILD = """
import sys
from pathlib import Path
from nanogpt.sources.download import Patience, download
from nanogpt.sources.part import Part
part = Part(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
with part.alone():
    print("holds", flush=True)
    download(sys.argv[1], part, Patience(), last=True)
"""


def start_child(url, part) -> Popen:
    command = [sys.executable, "-c", CHILD, url, str(part.whole), part.sha256, str(part.size)]
    return Popen(command, stdout=PIPE, text=True)


def test_a_killed_download_goes_on_where_it_was(tmp_path):
    part, hanging = part_in(tmp_path), threading.Event()
    with server(sends(waits=hanging), sends()) as (url, requests):
        child = start_child(url, part)
        try:
            while part.arrived() < 8192:
                assert child.poll() is None
                time.sleep(0.02)
        finally:
            child.kill()
            child.communicate()
            hanging.set()
        with part.alone():  # a dead process holds nothing
            arrived = part.arrived()
            assert get(url, tmp_path) == TEXT
    assert requests[1]["Range"] == f"bytes={arrived}-"


def test_what_another_process_downloads_is_waited_for_with_one_message(tmp_path, monkeypatch):
    part, hanging, messages = part_in(tmp_path), threading.Event(), []
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.1)  # long gone before the other continues
    monkeypatch.setattr(parts, "NOTICE_SECONDS", 0.1)
    with server(sends(waits=hanging)) as (url, requests):
        child = start_child(url, part)
        try:
            assert child.stdout.readline() == "holds\n"
            going_on = threading.Timer(1.0, hanging.set)
            going_on.start()
            with part.alone(lambda fault, remedy: messages.append((fault, remedy))):
                assert hanging.is_set() and part.whole.read_bytes() == TEXT
        finally:
            child.kill()
            child.communicate()
            hanging.set()
    assert messages == [(f"another process is downloading {part.whole}", "waited for it")] and len(requests) == 1


def test_a_process_that_holds_a_download_and_gets_nowhere_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    part, hanging = part_in(tmp_path), threading.Event()
    monkeypatch.setattr(parts, "NOTICE_SECONDS", 0.05)
    monkeypatch.setattr(parts, "STANDSTILL_SECONDS", 0.2)
    with server(sends(waits=hanging)) as (url, _):
        child = start_child(url, part)
        try:
            assert child.stdout.readline() == "holds\n"
            while part.arrived() < 8192:
                time.sleep(0.02)
            with pytest.raises(Unobtainable, match="nothing comes"), part.alone():
                pass
        finally:
            child.kill()
            child.communicate()
            hanging.set()


@each_kind
def test_what_stands_in_the_place_of_a_part_its_note_or_its_lock_makes_way(tmp_path, put):
    part = part_in(tmp_path)
    with server(sends()) as (url, _):
        part.comes_from(url, TAG)  # as if the part were of this file
        put(part.path)
        put(tmp_path / ".play.txt.lock")
        with part.alone():
            assert get(url, tmp_path) == TEXT
        part.whole.unlink()
        put(tmp_path / "play.txt.part.json")
        assert get(url, tmp_path) == TEXT
