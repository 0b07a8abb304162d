"""The Prefect server and its pages: start, reuse, watch, restart, and say when it can't be had.

The server belongs to a workspace, not to a run: it outlives the run, so that its pages can be read in the
morning, and the next run takes it over. Its loss never decides a run's success. Prefect is imported inside
functions only, after `connect` has set the environment that it reads at import time.
"""

import contextlib
import http.client
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import psutil

from nanogpt import durable

HOST = "127.0.0.1"
PORTS_TRIED = 20
START_SECONDS = 60.0  # measured: 3 to 4.4 s, 8 to 9 s with a new database, several times that on a busy machine
WATCH_SECONDS = 0.5
HEALTH_SECONDS = 10.0  # between questions to a server whose process lives
HUNG_AFTER = 4  # such questions in a row without an answer
RESTARTS = 3
RESTART_PATIENCE = 5.0  # for those who need the server while it is away and nobody has begun to start it again
CALM_SECONDS = 600.0  # a server that lived this long has its restarts forgiven
# What a server says that can't read its database: damaged, or written by another version of Prefect.
DATABASE_WORDINGS = ("sqlite3.DatabaseError", "alembic.", "no such table", "no such column")

Log = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """What home/server.json says of the server that was started there."""

    pid: int
    port: int
    url: str
    create_time: float  # seconds since the epoch, as psutil gives it: a pid alone may be another process by now


class StartError(Exception):
    """Why a server did not come up; `log_tail` holds its own last lines."""

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.log_tail = log_tail


class Server:
    """A healthy server of this workspace, watched from a thread and started again when it dies.

    `lost` is set when it is gone for good. `close` ends the watch; the server itself lives on.
    """

    def __init__(self, home: Path, record: Record, log: Log) -> None:
        self.home = home
        self.record = record
        self.lost = threading.Event()
        self._log = log
        self._closing = threading.Event()
        self._restarting = threading.Event()
        self._restarts = 0
        self._up_since = time.monotonic()
        self._watch = threading.Thread(target=self._keep_alive, name="prefect-server-watch", daemon=True)
        self._watch.start()

    @property
    def url(self) -> str:
        """Where a browser finds it, for example http://127.0.0.1:4200"""
        return self.record.url

    @property
    def stop_command(self) -> str:
        """The command line that ends it."""
        return shlex.join([sys.executable, "-m", "flows.prefect_server", "stop", str(self.home)])

    def healthy(self) -> bool:
        return _answers(self.record.port)

    def wait_until_healthy(self, seconds: float) -> bool:
        """True as soon as the server answers; False when it is lost or `seconds` have passed.

        A restart that is going on is waited for, however long it takes on a busy machine; with 0 nothing is.
        """
        deadline = time.monotonic() + seconds
        while not self.healthy():
            patient = time.monotonic() < deadline or (seconds > 0 and self._restarting.is_set())
            if self.lost.is_set() or not patient:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """End the watch, not the server."""
        self._closing.set()
        self._watch.join(timeout=2)

    def mark_crashed(self, tag: str) -> int:
        """Mark as Crashed what an earlier, killed process left unfinished under `tag`; the number of flow runs.

        For the holder of the run's lock only: whoever holds it knows that no other process of this run lives.
        What can't be reached stays as it is, with a line in the log.
        """
        try:
            return _mark_crashed(tag)
        except Exception as error:
            self._log(f"Prefect: earlier runs could not be marked as crashed: {_one_line(error)}")
            return 0

    def _keep_alive(self) -> None:
        unanswered, next_question = 0, time.monotonic() + HEALTH_SECONDS
        while not self._closing.wait(WATCH_SECONDS):
            if not _is_running(self.record):
                self._bring_back("ended")
            elif time.monotonic() >= next_question:
                unanswered = 0 if self.healthy() else unanswered + 1
                next_question = time.monotonic() + HEALTH_SECONDS
                if unanswered >= HUNG_AFTER:
                    _end(self.record)
                    self._bring_back("no longer answers")
                    unanswered = 0
            if self.lost.is_set():
                return

    def _bring_back(self, what: str) -> None:
        if time.monotonic() - self._up_since > CALM_SECONDS:
            self._restarts = 0
        if self._restarts == RESTARTS:
            self._log(f"Prefect server {what} again, after {RESTARTS} restarts: the run goes on without it")
            self.lost.set()
            return
        self._restarts += 1
        self._restarting.set()
        self._log(f"Prefect server (pid {self.record.pid}) {what}: starting it again on port {self.record.port}")
        try:
            with _only_one(self.home):
                # Another run of this workspace may have been quicker. The port stays: Prefect's client has it.
                current = _healthy_record(self.home)
                if current is None or current.port != self.record.port:
                    current = _start_despite_database(self.home, self.record.port, self._log, self._closing)
            self.record = current
            self._up_since = time.monotonic()
            self._log(f"Prefect server is back (pid {current.pid})")
        except (StartError, OSError, psutil.Error) as error:
            self._log(f"Prefect server could not be started again: {_one_line(error)}")
        finally:
            self._restarting.clear()


def connect(home: Path, log: Log, port: int = 4200) -> Server | None:
    """The workspace's server with its data in `home`: the one that runs already, or a new one.

    Sets the environment for this process's Prefect client, so call it before anything imports prefect.
    A taken `port` gives the next free one. Returns None, with the reason logged, when no server can be had.
    """
    try:
        home = home.resolve()
        home.mkdir(parents=True, exist_ok=True)
        with _only_one(home):
            record = _healthy_record(home)
            origin = "reused"
            if record is None:
                record = _start_on_free_port(home, log, port)
                origin = "started"
    except (StartError, OSError, psutil.Error) as error:
        log(f"no Prefect server, the run goes on without its pages: {_one_line(error)}")
        return None
    _use(home, record.url)
    server = Server(home, record, log)
    log(f"Prefect {record.url} ({origin}, pid {record.pid}); it outlives the run, to end it: {server.stop_command}")
    return server


def stop(home: Path) -> str:
    """End the server recorded in `home`, and say what happened in one line."""
    record = _read_record(home)
    if record is None or not _is_running(record):
        return f"no Prefect server of {home} is running"
    _end(record)
    return f"Prefect server at {record.url} (pid {record.pid}) ended"


# ---------------------------------------------------------------------------------------------- environment


def _environment(home: Path) -> dict[str, str]:
    """For the server and for the client: their own, whatever Prefect account or profile the person has."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    local = ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST, "localhost"]))
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_API_URL": "/api",  # its default is port 4200, whatever port the pages come from
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the older pages fold steps into their phase
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "NO_PROXY": local,
        "no_proxy": local,
    }


def _use(home: Path, url: str) -> None:
    """Point this process's Prefect client at `url`, with little patience: a lost server costs seconds."""
    wanted = _environment(home) | {
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLIENT_MAX_RETRIES": "1",  # after 2 s; the default of 5 took 146 s to give up on a dead server
        "PREFECT_API_REQUEST_TIMEOUT": "10",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",  # display.py sends the lines itself and never waits for them
    }
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(wanted)


# ------------------------------------------------------------------------------------------ processes, files


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One process at a time looks for or starts the server of `home`; the system frees a dead one's lock."""
    with filelock.FileLock(home / "server.lock", timeout=2 * START_SECONDS):
        yield


def _read_record(home: Path) -> Record | None:
    try:
        return Record(**durable.read_json(home / "server.json"))
    except (OSError, ValueError, TypeError):
        return None


def _healthy_record(home: Path) -> Record | None:
    """The recorded server when it is still that process and answers, if need be after its start; else it is ended."""
    record = _read_record(home)
    if record is None or not _is_running(record):
        return None
    age = time.time() - record.create_time
    if _becomes_healthy(record, max(1.0, START_SECONDS - age), threading.Event()):
        return record
    _end(record)
    return None


def _is_running(record: Record) -> bool:
    return _process(record) is not None


def _process(record: Record) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.create_time) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _end(record: Record, patience: float = 5.0) -> None:
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


def _answers(port: int) -> bool:
    """Whether GET /api/health says true. Asked without proxies and without importing prefect (1.5 s)."""
    connection = http.client.HTTPConnection(HOST, port, timeout=3)
    try:
        connection.request("GET", "/api/health")
        response = connection.getresponse()
        return response.status == 200 and response.read(16).strip() == b"true"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


# ------------------------------------------------------------------------------------------------- starting


def _start_on_free_port(home: Path, log: Log, port: int) -> Record:
    candidates = [p for p in range(port, port + PORTS_TRIED) if _is_free(p)]
    if not candidates:
        raise StartError(f"ports {port} to {port + PORTS_TRIED - 1} are all taken")
    if candidates[0] != port:
        log(f"port {port} is taken: Prefect listens on {candidates[0]}")
    return _start_despite_database(home, candidates[0], log, threading.Event())


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _start_despite_database(home: Path, port: int, log: Log, closing: threading.Event) -> Record:
    """Start; a database that is damaged or that this Prefect can't read is set aside for a new one."""
    fault = _database_fault(home / "prefect.db")
    if fault is None:
        try:
            return _start(home, port, closing)
        except StartError as error:
            if not any(wording in error.log_tail for wording in DATABASE_WORDINGS):
                raise
            fault = error.log_tail.strip().splitlines()[-1]
    kept = _set_aside(home / "prefect.db")
    log(f"Prefect's database was unusable ({fault}): kept as {kept}, a new one is made; earlier runs left the pages")
    return _start(home, port, closing)


def _start(home: Path, port: int, closing: threading.Event) -> Record:
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    log_path = home / "server.log"
    with open(log_path, "wb") as output:
        # A session of its own: Ctrl-C at the terminal is for the run, and the server outlives it.
        child = subprocess.Popen(
            command, cwd=home, env=_environment(home), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    born = psutil.Process(child.pid).create_time()  # before it can be reaped
    _reap(child)
    record = Record(child.pid, port, f"http://{HOST}:{port}", born)
    durable.write_json(home / "server.json", asdict(record))  # at once: a killed run leaves no unknown server
    if _becomes_healthy(record, START_SECONDS, closing):
        return record
    if closing.is_set():
        raise StartError("the run ended while it was starting")
    ended = not _is_running(record)
    _end(record)
    reason = "ended at once" if ended else f"was not healthy within {START_SECONDS:.0f} s"
    raise StartError(
        f"the server on port {port} {reason}, see {log_path}", log_path.read_text("utf-8", "replace")[-4000:]
    )


def _becomes_healthy(record: Record, seconds: float, closing: threading.Event) -> bool:
    deadline = time.monotonic() + seconds
    while _is_running(record) and time.monotonic() < deadline:
        if _answers(record.port):
            return True
        if closing.wait(0.1):
            return False
    return False


def _reap(child: subprocess.Popen) -> None:
    """Collect the child's exit status when it dies, so that it does not stay behind as a zombie."""
    threading.Thread(target=child.wait, name="prefect-server-reaper", daemon=True).start()


def _database_fault(path: Path) -> str | None:
    """What SQLite finds damaged in the file, None when it is sound, absent or only busy."""
    if not path.exists():
        return None
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError:  # locked, or not to be opened: the server will say
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if verdict == "ok" else verdict.splitlines()[0]


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -------------------------------------------------------------------------------------- what a kill left over


def _mark_crashed(tag: str) -> int:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
    from prefect.states import Crashed

    unfinished = {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"tags": {"all_": [tag]}, "state": unfinished})
        )
        if not runs:
            return 0
        message = "the process ended without a word (killed, or the machine stopped); the same command goes on"
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id for run in runs]}}),
            task_run_filter=TaskRunFilter.model_validate({"state": unfinished}),
        )
        for task in tasks:
            client.set_task_run_state(task.id, Crashed(message=message), force=True)
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return len(runs)


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "stop":
        print(stop(Path(arguments[1])))
        return 0
    print("usage: python -m flows.prefect_server stop HOME", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
