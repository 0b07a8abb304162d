"""Sources: a real HTTP server on loopback that is slow, cuts off, or lies; folders, files, and no network at all."""

import hashlib
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from nanogpt.data import sources
from nanogpt.data.sources import Entry, Unobtainable, check_source, fetch, fingerprint, obtain
from nanogpt.faults import UserError

TEXT = b"The quality of mercy is not strain'd.\n" * 400
SHA256 = hashlib.sha256(TEXT).hexdigest()


@contextmanager
def server(*answers):
    """A server whose n-th answer is answers[n](handler), the last one for ever; yields its address and a log."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            answers[min(len(requests), len(answers)) - 1](self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", requests
    finally:
        http.shutdown()
        http.server_close()


def sends(body, length=None, pause=0.0):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(length or len(body)))
        handler.end_headers()
        middle = len(body) // 2
        handler.wfile.write(body[:middle])
        handler.wfile.flush()
        time.sleep(pause)
        handler.wfile.write(body[middle:])

    return answer


def refuses(status):
    return lambda handler: handler.send_error(status)


def never_answers(handler):
    time.sleep(2)


def entry(url):
    return Entry("play", "play.txt", url, SHA256, "a play", "public domain", "nobody")


def nowhere():
    """An address that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/play.txt"


@pytest.fixture(autouse=True)
def no_waiting_between_attempts(monkeypatch):
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))


def test_a_slow_server_is_waited_for(tmp_path):
    with server(sends(TEXT, pause=0.3)) as (address, _):
        path, origin = obtain(entry(f"{address}/play.txt"), tmp_path)
    assert path.read_bytes() == TEXT and origin == f"{address}/play.txt"


@pytest.mark.parametrize(
    "fault",
    [sends(TEXT[: len(TEXT) // 2], length=len(TEXT)), sends(TEXT[::-1]), refuses(503)],
    ids=["cut off", "wrong bytes", "unavailable"],
)
def test_a_fault_is_followed_by_another_attempt(tmp_path, fault):
    with server(fault, fault, sends(TEXT)) as (address, requests):
        path, _ = obtain(entry(f"{address}/play.txt"), tmp_path)
    assert path.read_bytes() == TEXT and len(requests) == 3


def test_wrong_bytes_are_never_kept(tmp_path):
    with server(sends(TEXT[::-1])) as (address, requests), pytest.raises(Unobtainable, match="wrong bytes"):
        obtain(entry(f"{address}/play.txt"), tmp_path)
    assert len(requests) == sources.ATTEMPTS and list(tmp_path.iterdir()) == []


def test_a_damaged_copy_is_fetched_again_and_a_good_one_kept(tmp_path):
    (tmp_path / "play.txt").write_bytes(TEXT[:-1])
    lines = []
    with server(sends(TEXT)) as (address, requests):
        for _ in range(2):
            path, _ = obtain(entry(f"{address}/play.txt"), tmp_path, notify=lines.append)
    assert path.read_bytes() == TEXT and len(requests) == 1
    assert any("sha256 differs" in line for line in lines)


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ANSWER_SECONDS", 0.2)
    with server(never_answers) as (address, _), pytest.raises(Unobtainable, match="no answer"):
        obtain(entry(f"{address}/play.txt"), tmp_path)


def test_a_trickle_is_given_up_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TRANSFER_SECONDS", 0.2)
    with server(sends(TEXT, pause=1.5)) as (address, _), pytest.raises(Unobtainable, match="too slow"):
        obtain(entry(f"{address}/play.txt"), tmp_path)
    assert not (tmp_path / "play.txt").exists()


def test_mirror_url_comes_first(tmp_path):
    with server(sends(TEXT)) as (address, requests):
        _, origin = obtain(entry(nowhere()), tmp_path, f"{address}/copies/")
    assert requests == ["/copies/play.txt"] and origin == f"{address}/copies/play.txt"


def test_mirror_folder_comes_first(tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "play.txt").write_bytes(TEXT)
    path, origin = obtain(entry(nowhere()), tmp_path / "data", str(mirror))
    assert path.read_bytes() == TEXT and origin == str(mirror / "play.txt")


@pytest.mark.parametrize("copy", [None, TEXT[::-1]], ids=["missing", "damaged"])
def test_a_useless_mirror_leads_to_the_home(tmp_path, copy):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    if copy:
        (mirror / "play.txt").write_bytes(copy)
    lines = []
    with server(sends(TEXT)) as (address, _):
        _, origin = obtain(entry(f"{address}/play.txt"), tmp_path / "data", str(mirror), lines.append)
    assert origin.startswith(address) and "mirror" in lines[0]


def test_without_network_and_mirror_the_embedded_corpus_is_taken(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.CATALOGUE, "tiny_shakespeare", entry(nowhere()))
    lines = []
    fetched = fetch("tiny_shakespeare", tmp_path, notify=lines.append)
    assert fetched.origin == "embedded" and "embedded corpus" in fetched.fallback_reason
    assert fetched.fallback_reason == lines[-1] and "\n" not in lines[-1]


def test_embedded_corpus_is_english_big_enough_and_always_the_same(tmp_path):
    first, second = (fetch("embedded", tmp_path / name) for name in "ab")
    assert first.sha256 == second.sha256 and first.bytes >= 1_000_000 and first.fallback_reason is None
    text = first.documents[0].read_text(encoding="utf-8")
    assert text.count(" the ") > 5000


def test_tiny_shakespeare_from_a_mirror(tmp_path, shared_data):
    fetched = fetch("tiny_shakespeare", tmp_path, str(shared_data))
    assert fetched.bytes == 1_115_394 and fetched.sha256 == sources.CATALOGUE["tiny_shakespeare"].sha256


def test_a_persons_own_folder_in_the_order_of_its_paths(tmp_path):
    for name in ("b.txt", "a/deep.MD", "c.bin", ".hidden/x.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else f"text of {name}")
    fetched = fetch(str(tmp_path), tmp_path / "unused")
    assert [path.name for path in fetched.documents] == ["deep.MD", "b.txt"]
    assert not (tmp_path / "unused").exists()


def test_fingerprint_follows_the_content(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("one")
    before = fingerprint(str(own))
    assert before == fingerprint(str(own))
    own.write_text("two")
    assert before != fingerprint(str(own)) and fingerprint("embedded") == "embedded"


@pytest.mark.parametrize(
    "source, words",
    [
        ("missing.txt", "no file or folder"),
        ("some/where", "no file or folder"),
        ("~nobody-of-that-name/text.txt", "no file or folder"),
        ("tiny_shakespear", 'did you mean "tiny_shakespeare"'),
        ("{folder}/empty.txt", "empty"),
        ("{folder}/binary.txt", "not text"),
        ("{folder}/none", "holds no text"),
    ],
)
def test_a_persons_mistakes_are_one_line(tmp_path, source, words):
    (tmp_path / "empty.txt").write_bytes(b" \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=words) as caught:
        check_source(source.format(folder=tmp_path))
    assert "data.source" in str(caught.value) and "\n" not in str(caught.value)


def test_a_mirror_that_is_nothing_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match=r"data\.mirror"):
        check_source("tiny_shakespeare", str(tmp_path / "absent"))
    check_source("tiny_shakespeare", "https://example.org/copies")
