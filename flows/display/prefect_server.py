"""The Prefect server and its pages: start, reuse, watch, restart, and say when it can't be had.

The server belongs to a workspace, not to a run: it outlives the run, so that its pages can be read in the
morning, and the next run takes it over. Its loss never decides a run's success.
"""

import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from flows.display.prefect_process import (
    Record,
    StartError,
    answers,
    database_file,
    end,
    fault_under_server,
    has_pid,
    healthy_record,
    is_running,
    only_one,
    own_environment,
    read_record,
    start_despite_database,
    start_on_free_port,
)
from flows.display.protocol import Log, one_line

HOME_IN_CHECKOUT = Path(__file__).resolve().parents[2] / "state" / ".prefect"  # without a --workspace
WATCH_SECONDS = 0.5
HEALTH_SECONDS = 10.0  # between questions to a server whose process lives
HUNG_AFTER = 4  # such questions in a row without an answer
RESTARTS = 3
SECONDS_TO_RETRY = 10.0  # after the first restart that failed, twice that after the second: a port may be free again
RESTART_PATIENCE = 5.0  # to wait for a server that is down and whose restart has not begun
CALM_SECONDS = 600.0  # a server that lived this long has its restarts forgiven


class Server:
    """A healthy server of this workspace, watched from a thread and started again when it dies.

    `lost` is set, and `on_lost` called, when it is gone for good; `falls` counts how often it had to be started again.
    `close` ends the watch; the server itself lives on.
    """

    def __init__(self, home: Path, record: Record, log: Log) -> None:
        self.home = home
        self.record = record
        self.lost = threading.Event()
        self.falls = 0
        self.on_lost: Callable[[], None] = lambda: None
        self._log = log
        self._closing = threading.Event()
        self._restarting = threading.Event()
        self._restarts = 0
        self._up_since = time.monotonic()
        self._database = database_file(home)
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
        return answers(self.record)

    def wait_until_healthy(self, seconds: float) -> bool:
        """True as soon as the server answers; False when it is lost or `seconds` have passed.

        It waits for the end of a restart, however long that takes on a busy machine; with 0 it waits for nothing.
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
        Where the server does not answer, nothing changes but for a line in the log.
        """
        try:
            from flows.display import prefect_client  # Prefect reads its settings when it is imported; takes 1.5 s

            return prefect_client.mark_crashed(tag)
        except Exception as error:
            self._log(f"Prefect: earlier runs could not be marked as crashed: {one_line(error)}")
            return 0

    def _keep_alive(self) -> None:
        unanswered, next_question = 0, time.monotonic() + HEALTH_SECONDS
        while not self._closing.wait(WATCH_SECONDS):
            is_due = time.monotonic() >= next_question
            if not has_pid(self.record) or (is_due and not is_running(self.record)):
                self._bring_back("ended")
            elif is_due:
                unanswered = 0 if self.healthy() else unanswered + 1
                next_question = time.monotonic() + HEALTH_SECONDS
                if unanswered >= HUNG_AFTER:
                    end(self.record)
                    self._bring_back("no longer answers")
                    unanswered = 0
                elif not self._has_its_database():
                    end(self.record)
                    self._bring_back("lost its database")
            if self.lost.is_set():
                return

    def _has_its_database(self) -> bool:
        """Whether the file is the one that the server opened. A server keeps answering without it."""
        before, self._database = self._database, database_file(self.home)
        if before is None or self._database is None:
            return before is None
        (inode, size), (inode_now, size_now) = before, self._database
        return inode == inode_now and size <= size_now

    def _bring_back(self, what: str) -> None:
        if time.monotonic() - self._up_since > CALM_SECONDS:
            self._restarts = 0
        if self._restarts == RESTARTS:
            self._log(f"Prefect server {what} again, after {RESTARTS} restarts: the run continues without it")
            self.lost.set()
            self.on_lost()
            return
        self._restarts += 1
        self.falls += 1
        self._restarting.set()
        self._log(f"Prefect server (pid {self.record.pid}) {what}: starting it again on port {self.record.port}")
        try:
            with only_one(self.home):
                # Another run of this workspace may have been quicker. The port stays: Prefect's client has it.
                current = healthy_record(self.home)
                if current is None or current.port != self.record.port:
                    current = start_despite_database(self.home, self.record.port, self._log, self._closing)
            self.record = current
            self._up_since, self._database = time.monotonic(), database_file(self.home)
            self._log(f"Prefect server is back (pid {current.pid})")
        except (StartError, OSError, psutil.Error) as error:
            self._log(f"Prefect server could not be started again: {one_line(error)}")
            self._up_since = time.monotonic()  # its calm is over: failed restarts are not forgiven
        finally:
            self._restarting.clear()
        if not has_pid(self.record) and self._restarts < RESTARTS:
            self._closing.wait(SECONDS_TO_RETRY * self._restarts)


def connect(home: Path, log: Log, port: int = 4200, closing: threading.Event | None = None) -> Server | None:
    """The workspace's server with its data in `home`: the one that runs already, or a new one.

    Sets the environment for this process's Prefect client, so call it before anything imports prefect.
    A taken `port` gives the next free one. Returns None, with the reason logged, when no server can be had, or when
    `closing` is set before there is one.
    """
    try:
        home = home.resolve()
        home.mkdir(parents=True, exist_ok=True)
        with only_one(home):
            record = healthy_record(home)
            origin = "reused"
            if record is not None and (fault := fault_under_server(home, record)):
                log(f"the Prefect server that runs has no database to write to ({fault}): another one is started")
                end(record)
                record = None
            if record is None:
                record = start_on_free_port(home, log, port, closing or threading.Event())
                origin = "started"
    except (StartError, OSError, psutil.Error) as error:
        log(f"no Prefect server, the run continues without its pages: {one_line(error)}")
        return None
    _use(home, record.url)
    server = Server(home, record, log)
    log(f"Prefect {record.url} ({origin}, pid {record.pid}); it outlives the run, to end it: {server.stop_command}")
    return server


def url_of_running(home: Path) -> str | None:
    """Where the workspace's server shows earlier starts; None when none is running."""
    record = read_record(home)
    return record.url if record and is_running(record) else None


def stop(home: Path) -> str:
    """End the server recorded in `home`, and say what happened in one line."""
    record = read_record(home)
    if record is None or not is_running(record):
        return f"no Prefect server of {home} is running"
    end(record)
    return f"Prefect server at {record.url} (pid {record.pid}) ended"


def _use(home: Path, url: str) -> None:
    """Point this process's Prefect client at `url`, with little patience: a lost server costs seconds."""
    wanted = own_environment(home) | {
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps({"Origin": url}),  # what prefect_guard.py asks for
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLIENT_MAX_RETRIES": "1",  # after 2 s; the default of 5 took 146 s to give up on a dead server
        "PREFECT_API_REQUEST_TIMEOUT": "10",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",  # prefect_courier.py sends the lines itself
    }
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(wanted | _without_proxy())


def _without_proxy() -> dict[str, str]:
    """NO_PROXY with this machine added, in both of its spellings: which one wins depends on the program."""
    named = ",".join(filter(None, [os.environ.get("NO_PROXY"), os.environ.get("no_proxy"), "127.0.0.1", "localhost"]))
    hosts = ",".join(dict.fromkeys(host.strip() for host in named.split(",")))
    return {"NO_PROXY": hosts, "no_proxy": hosts}
