"""Who may ask, how much, and how slowly."""

import http.client
import json
import logging
import re
import select
import socket
import time

import pytest

from nanogpt.serving.settings import Limits
from tests.nanogpt.serving.serving_case import SECONDS, make_export, serving

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef0123"
LIMITS = Limits(body=5_000, headers=4_000, read_seconds=0.3, send_seconds=0.3, connections=12)
QUESTION = {"prompt": "abc", "max_tokens": 2}


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("models") / "run" / "micro")


@pytest.fixture(scope="module")
def server(export):
    with serving(export, limits=LIMITS, hosts=("box.example",), origins=("https://friend.example",)) as running:
        yield running


def address(server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return host, int(port)


def raw(server, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that the server answers to these bytes, sent one after another, until it closes the connection."""
    with socket.create_connection(address(server), timeout=SECONDS) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
                if select.select([connection], [], [], pause)[0]:  # it has answered already
                    break
            while data := connection.recv(65536):
                answer += data
        except ConnectionError:
            pass
    return answer


def error_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize("host, status", [
    (None, 200), ("localhost:99", 200), ("box.example", 200), ("[::1]:8484", 200), ("evil.example", 403), ("", 403),
    ("127.0.0.1.evil.example", 403), ("localhost@evil.example", 403), ("[::1", 403), ("10.0.0.1", 403),
])  # fmt: skip
def test_only_its_own_names_are_taken_against_dns_rebinding(server, host, status):
    headers = {} if host is None else {"host": host}
    assert server.client.get("/v1/models", headers=headers).status_code == status


@pytest.mark.parametrize("origin, status", [
    ("https://friend.example", 200), ("https://friend.example.evil.example", 403), ("http://evil.example", 403),
    ("null", 403), ("http://localhost", 403), ("http://127.0.0.1:1", 403), ("", 403),
])  # fmt: skip
def test_pages_of_other_sites_may_not_post(server, origin, status):
    assert server.post("/v1/completions", QUESTION, headers={"origin": origin}).status_code == status


def test_its_own_page_may_post_and_no_other_site_may_read(server):
    answer = server.post("/v1/completions", QUESTION, headers={"origin": server.url})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert server.client.options("/v1/completions", headers={"origin": server.url}).status_code == 405


@pytest.mark.parametrize("kind, status", [
    ("application/json", 200), ("application/json; charset=utf-8", 200), ("Application/JSON", 200),
    ("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("application/json; charset=utf-16", 415),
    ("", 415), ("application/jsonp", 415),
])  # fmt: skip
def test_only_json_is_read(server, kind, status):
    body = json.dumps(QUESTION)
    assert server.client.post("/v1/completions", content=body, headers={"content-type": kind}).status_code == status


def test_answers_carry_headers_that_keep_a_browser_to_this_server(server):
    for answer in (
        server.client.get("/health"),
        server.client.get("/nothing"),
        server.post("/v1/completions", {"a": 1}),
    ):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


def test_a_large_body_is_refused_whether_or_not_it_says_how_large(server):
    answer = server.post("/v1/completions", {"prompt": "a" * 6_000})
    assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_large"
    pieces = (b"a" * 1_000 for _ in range(6))  # chunked
    answer = server.client.post("/v1/completions", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_large_headers_are_refused(server):
    assert error_of(raw(server, b"GET / HTTP/1.1\r\nhost: localhost\r\na: " + b"a" * 9_000)) == (400, "bad_http")


@pytest.mark.parametrize("request_line", [b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"])
def test_what_is_no_http_is_answered_in_json(server, request_line):
    assert error_of(raw(server, request_line)) == (400, "bad_http")


@pytest.mark.parametrize("twice", [b"host: localhost", b"content-type: text/plain", b"authorization: Bearer x"])
def test_a_header_that_decides_may_not_come_twice(server, twice):
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nauthorization: Bearer y\r\n"
    assert error_of(raw(server, head + twice + b"\r\nconnection: close\r\n\r\n")) == (400, "bad_http")


def test_one_byte_at_a_time_is_cut_in_the_headers_and_in_the_body(server):
    slow = [bytes([byte]) for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\n" * 3]
    assert error_of(raw(server, *slow, pause=0.02)) == (408, "too_slow")
    head = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += b"content-length: 99\r\n\r\n"
    assert error_of(raw(server, head, *[b" "] * 40, pause=0.02)) == (408, "too_slow")


def test_a_silent_connection_is_closed_and_one_in_use_is_not(server):
    started = time.monotonic()
    assert raw(server) == b"" and time.monotonic() - started < 5
    connection = http.client.HTTPConnection(*address(server), timeout=SECONDS)
    for _ in range(4):
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        time.sleep(0.15)  # together longer than a request's headers may take
    connection.close()


def test_too_many_connections_are_refused(server):
    held = [socket.create_connection(address(server), timeout=SECONDS) for _ in range(30)]
    try:
        answers = []
        for connection in held:
            try:
                answers.append(connection.recv(65536))
            except ConnectionError:
                answers.append(b"")
    finally:
        for connection in held:
            connection.close()
    assert sum(b"too_many_connections" in answer for answer in answers) >= 18
    server.until(lambda: server.client.get("/health").status_code == 200)


def test_a_client_that_does_not_read_is_cut(export):
    """Its text of some MB fits into no buffer: the server would wait for ever."""
    with serving(export, limits=Limits(send_seconds=0.3, prompt=1_000_000)) as server, socket.socket() as connection:
        prompt = "a" * 800_000
        body = json.dumps({"prompt": prompt, "max_tokens": 5, "stream": True, "echo": True, "n": 8}).encode()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address(server))
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                           b"content-length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        server.until(lambda: server.figure("nanogpt_generated_tokens_total") == 40)
        assert server.figure("nanogpt_running_requests") == 2  # it waits; the other one asks for the figures
        server.until(lambda: server.figure("nanogpt_running_requests") == 1)


def test_a_token_is_demanded_of_all_but_health_and_page(export):
    with serving(export, token=TOKEN) as server:
        assert server.client.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/api/tags", "/nothing"):
            assert server.client.get(path).status_code == 401
        for header in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ü"):
            answer = server.client.get("/v1/models", headers={"authorization": header.encode("latin-1")})
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        answer = server.client.get("/v1/models", headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 200


def test_no_word_of_a_prompt_reaches_the_log(server, caplog):
    caplog.set_level(logging.DEBUG)
    server.post("/v1/completions", {"prompt": "abcabcabc", "max_tokens": 1})
    server.post("/v1/completions", {"prompt": ["abcabcabc"], "max_tokens": -1})
    server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "abcabcabc"}], "max_tokens": 1})
    server.client.get("/v1/models/%1b[31mred?q=abcabcabc")

    def log() -> str:
        return "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))

    server.until(lambda: "%1b[31mred" in log())  # as it was sent: no escape reaches a terminal
    assert "/v1/completions 200" in log() and "/v1/completions 400" in log()
    assert "abcabcabc" not in log() and "\x1b[31mred" not in log()


def test_metrics_do_not_grow_with_what_clients_invent(server):
    for number in range(5):
        server.client.get(f"/invented/{number}")
    text = server.client.get("/metrics").text
    assert "invented" not in text and 'path="other",status="404"' in text


def test_a_mistake_of_the_server_is_json_and_logged_without_what_was_sent(server, caplog, monkeypatch):
    def fail(*_):
        raise ValueError("abc" * 3)  # the source is logged, the words are not

    monkeypatch.setattr(server.server.models, "find", fail)
    answer = server.post("/v1/completions", {"prompt": "abcabcabc"})
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "bug"
    server.until(lambda: "/v1/completions failed: ValueError" in caplog.text)
    assert "in fail" in caplog.text and "abcabcabc" not in caplog.text


def test_the_page_comes_without_a_token_and_nothing_else_of_the_disk(export):
    with serving(export, token=TOKEN) as server:
        page = server.client.get("/")
        assert page.status_code == 200 and "<html" in page.text and "<script>" not in page.text
        for file in re.findall(r'(?:src|href)="([\w./]+)"', page.text):
            assert server.client.get(f"/{file}").status_code == 200
        for path in ("/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/page.js/../../app.py"):
            assert server.client.get(path).status_code in (401, 404)
