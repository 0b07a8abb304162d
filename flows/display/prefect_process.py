"""The process of a workspace's Prefect server: its record, its health, its end, and how one is started."""

import contextlib
import http.client
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import filelock
import psutil

from flows.display import prefect_blank
from flows.display.protocol import Log
from nanogpt import durable

HOST = "127.0.0.1"
GUARD = Path(__file__).with_name("prefect_guard.py")
DATABASE, RECORD_FILE = "prefect.db", "server.json"
DATABASE_URL = f"sqlite+aiosqlite:///{DATABASE}"  # in the server's folder: a path with ? or # would be cut there
PROCESS = "X-Process"  # in each answer of prefect_guard.py: the number of its process; earlier versions sent none
PORTS_TRIED = 20
START_SECONDS = 60.0  # measured: 2.7 s, 9 s where it has to make its database, several times that on a busy machine
QUESTION_SECONDS, LONGEST_ANSWER = 3.0, 2**20  # one question, and the bytes of its answer; commonly 5 ms and 3,000
ANSWER_SECONDS = 10.0  # to a newcomer: another run may be using the server, on a machine that is busy training
# What a server says that can't read its database: damaged, or written by another version of Prefect.
DATABASE_WORDINGS = ("sqlite3.DatabaseError", "alembic.", "no such table", "no such column")

# For deployments, work pools and automations, which a run has none of: 1.9 % of a core with them, 1.2 % without.
IDLE_SERVICES = ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "FOREMAN", "REPOSSESSOR",
                 "CLEANUP_RECONCILER", "TRIGGERS")  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What home/server.json says of the server that was started there."""

    pid: int
    port: int
    url: str
    create_time: float  # seconds since the epoch, as psutil gives it: a pid alone may be another process by now
    inode: int | None = None  # of its database, once it is up
    is_guarded: bool = False  # by prefect_guard.py; earlier versions of this project started servers open to any page


class StartError(Exception):
    """Why a server did not come up; `log_tail` holds its own last lines."""

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.log_tail = log_tail


def own_environment(home: Path) -> dict[str, str]:
    """For server and client: without the Prefect account, profile or server that a person may have."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return inherited | {"PREFECT_HOME": str(home), "PREFECT_LOGGING_LEVEL": "WARNING", "DO_NOT_TRACK": "1"}


def server_environment(home: Path, url: str) -> dict[str, str]:
    own = own_environment(home)
    for name in [name for name in own if name.lower().endswith("_proxy")]:
        del own[name]  # it calls no other machine; its own client fails at a kind of proxy that httpx does not know
    return own | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": DATABASE_URL,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,  # its default is every web page; prefect_guard.py does the rest
        "PREFECT_SERVER_UI_API_URL": "/api",  # its default is port 4200, whatever port the pages come from
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the older pages fold steps into their phase
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",  # 54 types that no run uses; 1 s in a new database
        **{f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false" for service in IDLE_SERVICES},
    }


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """One process at a time looks for or starts the server of `home`; the system frees a dead one's lock."""
    durable.unblock(home / "server.lock", links=True)
    with filelock.FileLock(home / "server.lock", timeout=2 * START_SECONDS):
        yield


def read_record(home: Path) -> Record | None:
    try:
        return Record(**durable.read_json(home / RECORD_FILE))
    except (OSError, ValueError, TypeError):
        return None


def healthy_record(home: Path) -> Record | None:
    """The recorded server if it still runs and answers, once it has started; otherwise it is ended."""
    record = read_record(home)
    if record is None or not is_running(record):
        return None
    if not record.is_guarded:
        end(record)
        return None
    age = max(0.0, time.time() - record.create_time)  # negative once the clock was set back
    if becomes_healthy(record, max(ANSWER_SECONDS, START_SECONDS - age), threading.Event()):
        return record
    end(record)
    return None


def is_running(record: Record) -> bool:
    return _process(record) is not None


def has_pid(record: Record) -> bool:
    """Whether a process with the number of the server's lives: less than is_running() asks, and sooner answered."""
    try:
        return bool(psutil.Process(record.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _process(record: Record) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        is_it = _started_at(process, record) or process.cmdline()[1:] == _arguments(record.port)
        return process if is_it and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _started_at(process: psutil.Process, record: Record) -> bool:
    """False once the clock was set: Linux counts a process's start from boot, and psutil adds the time of boot by the
    clock as it is now."""
    return bool(abs(process.create_time() - record.create_time) < 1.0)


def _arguments(port: int) -> list[str]:
    return ["-P", str(GUARD), str(port)]


def end(record: Record, patience: float = 5.0) -> None:
    process = _process(record)
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(patience)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(patience)


def answers(record: Record) -> bool:
    """Whether GET /api/health says true, and no other process does so: another workspace's server, started at the same
    moment, may have got the port."""
    return _answer(record.port, "/api/health", record.pid).strip() == b"true"


def is_cancelled(port: int, flow_run: str) -> bool | None:
    """Whether somebody cancelled the flow run with this id, on its page say. None where the server does not answer."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        state = json.loads(_answer(port, f"/api/flow_runs/{flow_run}"))["state"]["type"]
        return state in ("CANCELLING", "CANCELLED")
    return None


def _answer(port: int, path: str, process: int | None = None) -> bytes:
    """What the server says to GET, b"" when that is no success, or when another than `process` says it.

    Asked without proxies and without importing prefect (1.4 s), whose client takes ten times the processor time.

    After QUESTION_SECONDS at the latest: a socket's own timeout is for each piece of an answer, and another program
    with the port may send a byte a second.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=QUESTION_SECONDS)
    try:
        connection.connect()
        with _ended_after(QUESTION_SECONDS, connection.sock):
            connection.request("GET", path)
            response = connection.getresponse()
            is_other = process is not None and response.getheader(PROCESS, str(process)) != str(process)
            return response.read(LONGEST_ANSWER) if response.status == 200 and not is_other else b""
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


@contextlib.contextmanager
def _ended_after(seconds: float, connected: socket.socket) -> Iterator[None]:
    """After so long, whoever still reads from `connected` finds its end."""

    def hang_up() -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            connected.shutdown(socket.SHUT_RDWR)

    limit = threading.Timer(seconds, hang_up)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()


def start_on_free_port(home: Path, log: Log, port: int, closing: threading.Event) -> Record:
    for candidate in range(port, port + PORTS_TRIED):
        if not _is_free(candidate):
            continue
        if candidate != port:
            log(f"port {port} is taken: Prefect listens on {candidate}")
        try:
            return start_despite_database(home, candidate, log, closing)
        except StartError:
            if _is_free(candidate):
                raise  # else another program, perhaps another workspace's server, took it meanwhile
    raise StartError(f"ports {port} to {port + PORTS_TRIED - 1} are all taken")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def start_despite_database(home: Path, port: int, log: Log, closing: threading.Event) -> Record:
    """Start the server; set aside a database that is damaged or that this Prefect cannot read."""
    database = home / DATABASE
    if _is_empty(database):
        if (home / RECORD_FILE).exists():
            log(f"Prefect's database {database} is gone or empty: a new one is made; earlier runs left the pages")
        prefect_blank.copy_to(database)
    fault = _database_fault(database)
    if fault is None:
        try:
            return _start(home, port, closing)
        except StartError as error:
            if not any(wording in error.log_tail for wording in DATABASE_WORDINGS):
                raise
            fault = error.log_tail.strip().splitlines()[-1]
    for part in (home / f"{DATABASE}-wal", home / f"{DATABASE}-shm", database):  # no new one meets a journal of this
        if os.path.lexists(part):
            durable.set_aside(part)
    kept = f"kept as {database}{durable.DAMAGED}"
    log(f"Prefect's database was unusable ({fault}): {kept}, a new one is made; earlier runs left the pages")
    return _start(home, port, closing)


def _start(home: Path, port: int, closing: threading.Event) -> Record:
    if not _is_free(port):  # the program that has it might even answer, as another workspace's server does
        raise StartError(f"port {port} is taken by another program")
    command, url = [sys.executable, *_arguments(port)], f"http://{HOST}:{port}"
    log_path = home / "server.log"
    durable.remove(log_path)
    with open(log_path, "xb") as output:
        # A session of its own: Ctrl-C at the terminal is for the run, and the server outlives it.
        child = subprocess.Popen(
            command, cwd=home, env=server_environment(home, url), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    born = psutil.Process(child.pid).create_time()  # before it can be reaped
    _reap(child)
    record = Record(child.pid, port, url, born, is_guarded=True)
    durable.write_json(home / RECORD_FILE, asdict(record))  # at once: a killed run leaves no unknown server
    if becomes_healthy(record, START_SECONDS, closing):
        inode, _ = database_file(home) or (None, None)
        record = replace(record, inode=inode)
        with contextlib.suppress(OSError):  # the server runs, recorded or not
            durable.write_json(home / RECORD_FILE, asdict(record))
        return record
    if closing.is_set():
        raise StartError("the run ended while it was starting")
    ended = not is_running(record)
    end(record)
    reason = "ended at once" if ended else f"was not healthy within {START_SECONDS:.0f} s"
    last_words = durable.read_bytes(log_path).decode("utf-8", "replace")[-4000:]
    raise StartError(f"the server on port {port} {reason}, see {log_path}", last_words)


def becomes_healthy(record: Record, seconds: float, closing: threading.Event) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(record) and time.monotonic() < deadline:
        if answers(record):
            return True
        if closing.wait(0.1):
            return False
    return False


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Collect the child's exit status when it dies, so that it does not stay behind as a zombie."""
    threading.Thread(target=child.wait, name="prefect-server-reaper", daemon=True).start()


def _database_fault(path: Path) -> str | None:
    """What SQLite finds damaged in the file, None when it is sound, absent or only busy."""
    if not path.exists():
        return None
    if path.is_dir():
        return "a folder is in its place"
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:  # locked, or it cannot be opened: the server will say
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if verdict == "ok" else verdict.splitlines()[0]


def fault_under_server(home: Path, record: Record) -> str | None:
    """What is wrong with the database of a server that runs; None when it is sound.

    A server whose database was deleted makes an empty file for its next connection, where SQLite's errors may look as
    if the database were busy: the inode tells.
    """
    database = home / DATABASE
    if _is_empty(database):
        return "gone or empty"
    if record.inode not in (None, database.stat().st_ino):
        return "another file is in its place"
    return _database_fault(database)


def _is_empty(database: Path) -> bool:
    """Whether it is not there or has no tables."""
    if _size(database) == 0:
        return True
    try:
        with contextlib.closing(sqlite3.connect(database)) as opened:
            return opened.execute("select 1 from sqlite_master").fetchone() is None
    except sqlite3.Error:  # busy or damaged, and not empty
        return False


def database_file(home: Path) -> tuple[int, int] | None:
    """Inode and size of the server's database, None without one: a running server's keeps the one, and grows."""
    try:
        facts = (home / DATABASE).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size


def last_written(home: Path) -> tuple[int, ...]:
    """What differs once the server has written to its database: to SQLite's log (WAL) first, to the file itself later.
    Empty where that cannot be seen."""
    try:
        found = [(home / name).stat() for name in (DATABASE, f"{DATABASE}-wal")]
    except OSError:
        return ()
    return tuple(figure for facts in found for figure in (facts.st_ino, facts.st_size, facts.st_mtime_ns))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
