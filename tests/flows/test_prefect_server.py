"""The server that a workspace shares: started, reused, ended; or done without.

One that is killed, whose port is taken or whose database is broken: bench/faults/kinds/servers.py, run by the tests of
the campaign.
"""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from flows.display import prefect_process, prefect_server
from flows.display.prefect_process import Record
from flows.display.prefect_server import Server, connect
from nanogpt import durable
from tests.conftest import free_port

pytestmark = pytest.mark.xdist_group("prefect_server")  # they share a database and often a server


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch) -> Iterator[None]:
    """`connect` sets the environment of its process for good."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory) -> Iterator[Path]:
    """A home whose database is made once; tests find a server there or not, and may end it."""
    home = tmp_path_factory.mktemp("prefect")
    yield home
    prefect_server.stop(home)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
def test_a_healthy_server_is_reused(shared_home):
    first = connect(shared_home, print, free_port())
    second = connect(shared_home, print, free_port())
    assert second.record == first.record and second.healthy()
    for server in (first, second):
        server.close()
    assert second.healthy()  # it outlives the runs


@pytest.mark.slow
def test_a_persons_own_prefect_settings_are_left_out(shared_home):
    os.environ.update(PREFECT_API_URL="https://api.prefect.cloud/x", PREFECT_API_KEY="key", PREFECT_PROFILE="mine")
    server = connect(shared_home, print, free_port())
    server.close()
    assert os.environ["PREFECT_API_URL"] == f"{server.url}/api"
    assert os.environ["PREFECT_HOME"] == str(shared_home)
    assert not {"PREFECT_API_KEY", "PREFECT_PROFILE"} & set(os.environ)
    assert os.environ["DO_NOT_TRACK"] == "1"


@pytest.mark.slow
def test_a_workspace_may_have_any_name(tmp_path):
    """In a URL, as SQLAlchemy reads one, `?` and `#` end the path and %41 is an A."""
    home = tmp_path / "a ?b=c #d %41 é" / "state" / ".prefect"
    server = connect(home, print, free_port())
    server.close()
    try:
        with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
            assert database.execute("select count(*) from flow_run").fetchone() == (0,)
        assert [path.name for path in tmp_path.iterdir()] == ["a ?b=c #d %41 é"]
    finally:
        prefect_server.stop(home)


@pytest.mark.slow
def test_a_persons_exceptions_from_the_proxy_are_kept(shared_home):
    os.environ.update(NO_PROXY="mirror.intranet,localhost", no_proxy="10.0.0.1")
    connect(shared_home, print, free_port()).close()
    for name in ("NO_PROXY", "no_proxy"):
        assert os.environ[name] == "mirror.intranet,localhost,10.0.0.1,127.0.0.1"


@pytest.mark.slow
def test_stop_ends_it_and_says_so(shared_home):
    server = connect(shared_home, print, free_port())
    server.close()
    command = [sys.executable, "-m", "flows.prefect_server", "stop", str(shared_home)]
    checkout = Path(__file__).resolve().parents[2]
    said = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert f"(pid {server.record.pid}) ended" in said and not psutil.pid_exists(server.record.pid)
    assert "is running" in prefect_server.stop(shared_home)


@pytest.mark.fast
def test_a_server_that_cannot_start_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    before, lines = dict(os.environ), []
    assert connect(tmp_path, lines.append, free_port()) is None
    assert len(lines) == 1 and "no Prefect server, the run continues" in lines[0] and "server.log" in lines[0]
    assert dict(os.environ) == before


@pytest.mark.fast
def test_a_home_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    lines: list[str] = []
    assert connect(tmp_path / "file" / "home", lines.append) is None
    assert len(lines) == 1


@pytest.mark.fast
@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_record_is_no_server(tmp_path, content):
    (tmp_path / "server.json").write_text(content)
    assert "no Prefect server" in prefect_server.stop(tmp_path)


@pytest.mark.fast
def test_another_process_with_the_recorded_pid_is_left_alone(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        born = psutil.Process(bystander.pid).create_time()
        record = {"pid": bystander.pid, "port": 4200, "url": "http://127.0.0.1:4200", "create_time": born - 100}
        durable.write_json(tmp_path / "server.json", record)
        assert "no Prefect server" in prefect_server.stop(tmp_path)
        assert bystander.poll() is None
    finally:
        bystander.communicate(b"\n")


@pytest.mark.fast
def test_a_server_is_known_again_after_the_clock_was_set(monkeypatch):
    """psutil then tells another start of the same process."""
    record = Record(os.getpid(), 4321, "http://127.0.0.1:4321", psutil.Process().create_time() - 3600)
    assert not prefect_process.is_running(record)
    started = [sys.executable, "-P", str(prefect_process.GUARD), "4321"]
    monkeypatch.setattr(psutil.Process, "cmdline", lambda process: started)
    assert prefect_process.is_running(record)
    assert not prefect_process.is_running(replace(record, port=4322))


@pytest.mark.fast
def test_what_is_written_to_the_database_is_seen_from_outside(tmp_path):
    assert prefect_process.last_written(tmp_path) == ()
    with contextlib.closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table runs (state)")
        database.commit()
        before = prefect_process.last_written(tmp_path)
        database.execute("select * from runs").fetchall()
        assert before and prefect_process.last_written(tmp_path) == before
        time.sleep(0.02)  # of two times within one tick of the system's clock, one is seen
        database.execute("insert into runs values ('CANCELLING')")
        database.commit()
        assert prefect_process.last_written(tmp_path) != before


@pytest.mark.fast
def test_a_server_that_never_comes_back_is_given_up(tmp_path, monkeypatch):
    def refuse(*_: object) -> Record:
        raise prefect_process.StartError("no memory")

    monkeypatch.setattr(prefect_server, "WATCH_SECONDS", 0.1)  # time to say who is told
    monkeypatch.setattr(prefect_server, "SECONDS_TO_RETRY", 0.01)
    monkeypatch.setattr(prefect_server, "start_despite_database", refuse)
    lines: list[str] = []
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    told = threading.Event()
    server = Server(tmp_path, Record(gone.pid, free_port(), "http://127.0.0.1:1", 0.0), lines.append)
    server.on_lost = told.set
    assert server.lost.wait(10) and told.wait(10)
    assert sum("no memory" in line for line in lines) == prefect_server.RESTARTS
    assert "the run continues without it" in lines[-1]
    assert not server.wait_until_healthy(60)  # does not wait for what is lost
    server.close()


@pytest.mark.fast
def test_a_server_whose_port_is_taken_for_a_moment_comes_back(tmp_path, monkeypatch):
    me = Record(os.getpid(), free_port(), "http://127.0.0.1:1", psutil.Process().create_time())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    free_again = time.monotonic() + 0.5

    def start(*_: object) -> Record:
        if time.monotonic() < free_again:
            raise prefect_process.StartError("port 4200 is taken by another program")
        return me

    monkeypatch.setattr(prefect_server, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(prefect_server, "SECONDS_TO_RETRY", 0.3)
    monkeypatch.setattr(prefect_server, "start_despite_database", start)
    lines: list[str] = []
    server = Server(tmp_path, Record(gone.pid, free_port(), "http://127.0.0.1:1", 0.0), lines.append)
    try:
        assert eventually(lambda: "is back" in lines[-1] if lines else False) and not server.lost.is_set()
    finally:
        server.close()


@pytest.mark.fast
@pytest.mark.parametrize("damage", ["deleted", "cut", "another"])
def test_a_server_whose_database_is_taken_from_under_it_is_started_again(tmp_path, monkeypatch, damage):
    """It answers all the same."""
    database = tmp_path / "prefect.db"
    database.write_bytes(bytes(100))
    ended, back = threading.Event(), threading.Event()
    monkeypatch.setattr(prefect_server, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(prefect_server, "HEALTH_SECONDS", 0.01)
    monkeypatch.setattr(prefect_server, "answers", lambda port: True)
    monkeypatch.setattr(prefect_server, "end", lambda record: ended.set())
    me = Record(os.getpid(), free_port(), "http://127.0.0.1:1", psutil.Process().create_time())

    def start(*_: object) -> Record:
        back.set()
        return me

    monkeypatch.setattr(prefect_server, "healthy_record", lambda home: None)
    monkeypatch.setattr(prefect_server, "start_despite_database", start)
    lines: list[str] = []
    server = Server(tmp_path, me, lines.append)
    try:
        with open(database, "ab") as file:
            file.write(bytes(100))  # it may grow
        assert not ended.wait(0.1)
        if damage == "deleted":
            database.unlink()
        elif damage == "cut":
            os.truncate(database, 50)
        else:
            (tmp_path / "other").write_bytes(bytes(300))
            os.replace(tmp_path / "other", database)
        assert ended.wait(10) and back.wait(10)
        assert "lost its database" in lines[0]
    finally:
        server.close()


@pytest.mark.fast
def test_a_server_is_not_started_where_another_program_listens(tmp_path):
    """It might answer in its place."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(prefect_process.StartError, match="taken by another program"):
            prefect_process.start_despite_database(tmp_path, taken.getsockname()[1], print, threading.Event())


@pytest.mark.slow
def test_two_workspaces_that_start_at_once_get_a_port_each(tmp_path, monkeypatch):
    """Both find the port free: a server takes seconds until it listens."""
    port, lines = free_port(), list[str]()
    first = connect(tmp_path / "first", print, port)
    assert first is not None
    try:
        tried = iter([True, True])  # as the second saw it, before the first listened
        is_free = prefect_process._is_free
        monkeypatch.setattr(prefect_process, "_is_free", lambda port: next(tried, False) or is_free(port))
        second = connect(tmp_path / "second", lines.append, port)
        assert second is not None and second.record.port != port and second.healthy() and first.healthy()
        second.close()
    finally:
        first.close()
        for home in ("first", "second"):
            prefect_server.stop(tmp_path / home)


@pytest.mark.fast
@pytest.mark.parametrize("first", [
    b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n",
], ids=["head", "body", "body without a length"])  # fmt: skip
def test_an_answer_that_never_ends_is_none(first, monkeypatch):
    """Of another program that has got the port: it sends a byte now and then, for ever."""
    monkeypatch.setattr(prefect_process, "QUESTION_SECONDS", 0.5)
    answers: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        record = Record(os.getpid(), listener.getsockname()[1], "http://127.0.0.1:1", 0.0)
        asking = threading.Thread(target=lambda: answers.append(prefect_process.answers(record)), daemon=True)
        asking.start()
        client, _ = listener.accept()
        with client:
            client.sendall(first)
            has_ended = eventually(lambda: is_over_after_a_byte(client, asking))
        asking.join(30)
    assert has_ended and answers == [False]


def is_over_after_a_byte(client: socket.socket, asking: threading.Thread) -> bool:
    with contextlib.suppress(OSError):
        client.send(b"x")
    return not asking.is_alive()


@pytest.mark.fast
def test_closing_ends_the_watch(tmp_path):
    record = Record(os.getpid(), free_port(), "http://127.0.0.1:1", psutil.Process().create_time())
    server = Server(tmp_path, record, print)
    server.close()
    assert "prefect-server-watch" not in {thread.name for thread in threading.enumerate()}
