"""Prefect's server: killed, hanging, kept from its port, taken for another, or with a broken database.

What a person has of it are pages; the run's result never depends on them. Each kind has pages on, with a database that
was made once, for making one takes Prefect 5 s.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from filelock import FileLock

from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.kind import Kind
from bench.faults.stage.moments import marker_of
from bench.faults.stage.process import Process, environment_of, is_server, marked
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import MODEL
from flows.context.paths import CHECKOUT
from flows.display.prefect_process import read_record
from nanogpt import durable

REPORT_AGAIN = ("--redo", "documentation.report")  # the smallest work that makes a run start its server
START = """\
import sys
from pathlib import Path
from threading import Event
from flows.display.prefect_process import start_on_free_port
print(start_on_free_port(Path(sys.argv[1]), print, int(sys.argv[2]), Event()).port)
"""


def server_of(scene: Scene) -> psutil.Process | None:
    """The server of the scene's pages, if it is alive."""
    return next((process for process in marked(str(scene.workspace)) if is_server(process)), None)


def _living_server_of(scene: Scene) -> psutil.Process:
    if (server := server_of(scene)) is None:
        raise NotSurvived("there is no server")
    return server


def killed(scene: Scene) -> Finding:
    """kill -9 of the server when the training begins; the run starts it again at the same address."""
    process = _training_with_pages(scene)
    _living_server_of(scene).kill()
    scene.results.append(process.wait())
    return Finding(scene.noticed("Prefect server .* ended: starting it again"), "the server is started again")


def hanging(scene: Scene) -> Finding:
    """SIGSTOP of the server when the training begins, for good: it neither answers nor ends."""
    process = _training_with_pages(scene)
    _living_server_of(scene).suspend()
    scene.results.append(process.wait())
    return Finding(scene.noticed("Prefect.*(record|miss|answer)"), "the run continues without its pages")


def crashed_run(scene: Scene) -> Finding:
    """kill -9 of all but the server while it trains; the next start says on the pages what became of the first."""
    process = _training_with_pages(scene)
    process.wait_for(lambda: _flow_runs(_home(scene)), "its page")
    process.kill("both")
    scene.run(ui=True)
    states = sorted(run["state"]["type"] for run in _flow_runs(_home(scene)))
    if states != ["COMPLETED", "CRASHED"]:
        raise NotSurvived(f"the pages show the two starts as {states}")
    return Finding("flow run of the killed start: CRASHED", "the same command", result="the pages tell of both starts")


def port_of_another_program(scene: Scene) -> Finding:
    """Another program listens on the port that the pages would have."""
    _give_database(scene, _home(scene))
    with socket.socket() as other:
        other.bind(("127.0.0.1", scene.port))
        other.listen()
        scene.run(*REPORT_AGAIN, ui=True)
    return Finding(scene.noticed("port .* is taken: Prefect listens on"), "the next free port")


def port_of_another_workspace(scene: Scene) -> Finding:
    """Another workspace's server has the port; neither shows the other's runs."""
    other = scene.workspace / "another workspace"
    for home in (other, _home(scene)):
        _give_database(scene, home)
    with _server_in(other, scene.port):
        scene.run(*REPORT_AGAIN, ui=True)
        shown = len(_flow_runs(other)), len(_flow_runs(_home(scene)))
    if shown != (0, 1):
        raise NotSurvived(f"flow runs on the other server's pages and on its own: {shown}")
    return Finding(scene.noticed("port .* is taken: Prefect listens on"), "the next free port")


def record_of_another_process(scene: Scene) -> Finding:
    """server.json names a process that is another program, as after a reboot; it is left alone."""
    _give_database(scene, _home(scene))
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            _record(scene, sleeper.pid)
            scene.run(*REPORT_AGAIN, ui=True)
            if sleeper.poll() is not None:
                raise NotSurvived("the other program was ended")
        finally:
            sleeper.kill()
    return Finding("nothing: start time and command show another process", "a server of its own")


def broken_at_rest(damage: Callable[[Path], object], noticed: str) -> Callable[[Scene], Finding]:
    """Inflicts `damage` on the database while no server runs."""

    def inflict(scene: Scene) -> Finding:
        _give_database(scene, _home(scene))
        _record(scene, pid=2**22)  # of a server that has ended; the kernel gives no such number
        damage(_home(scene) / "prefect.db")
        scene.run(*REPORT_AGAIN, ui=True)
        _check_pages(scene)
        return Finding(scene.noticed(noticed), "what is left of it is kept aside, a new one is made")

    inflict.__doc__ = f"prefect.db is {damage.__doc__} while no server runs."
    return inflict


def broken_while_running(damage: Callable[[Path], object], noticed: str) -> Callable[[Scene], Finding]:
    """Inflicts `damage` on the database of a server that runs, in the middle of a run; then there is another start."""

    def inflict(scene: Scene) -> Finding:
        process = _training_with_pages(scene)
        damage(_home(scene) / "prefect.db")
        scene.results.append(process.wait())
        scene.run(*REPORT_AGAIN, ui=True)
        _check_pages(scene)
        return Finding(scene.noticed(noticed), "another server with a new database")

    inflict.__doc__ = f"prefect.db is {damage.__doc__} under the server while the run trains."
    return inflict


def truncated(database: Path) -> None:
    """cut to half of its size"""
    with open(database, "r+b") as file:
        file.truncate(database.stat().st_size // 2)


def flipped(database: Path) -> None:
    """changed by one bit of its header"""
    with open(database, "r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def deleted(database: Path) -> None:
    """deleted"""
    database.unlink()


def replaced_by_a_folder(database: Path) -> None:
    """replaced by a folder of that name"""
    database.unlink()
    database.mkdir()


def _training_with_pages(scene: Scene) -> Process:
    """The command, started with pages, once it trains and its server is up, whichever comes later."""
    _give_database(scene, _home(scene))
    before = marker_of(scene, f"training.{MODEL}")
    process = scene.start(ui=True)
    process.wait_for(lambda: marker_of(scene, f"training.{MODEL}") != before, "the start of the training")
    process.wait_for(lambda: (record := read_record(_home(scene))) and record.inode, "its server to be up")
    return process


def _short(damage: Callable[[Path], object]) -> str:
    return (damage.__doc__ or "").split(" of that")[0]


def _home(scene: Scene) -> Path:
    return scene.workspace / "state" / ".prefect"


def _record(scene: Scene, pid: int) -> None:
    """A note that a server of the scene is this process, begun long ago."""
    url = f"http://127.0.0.1:{scene.port}"
    record = {"pid": pid, "port": scene.port, "url": url, "create_time": 1e9}
    durable.write_json(_home(scene) / "server.json", record)


def _check_pages(scene: Scene) -> None:
    """The newest run is on the pages, whole."""
    scene.wait_until(lambda: "COMPLETED" in [run["state"]["type"] for run in _flow_runs(_home(scene))], "its pages")


def _flow_runs(home: Path) -> list[dict[str, Any]]:
    url = durable.read_json(home / "server.json")["url"]
    answer = httpx.post(f"{url}/api/flow_runs/filter", json={}, headers={"Origin": url}, timeout=60)
    runs: list[dict[str, Any]] = answer.raise_for_status().json()
    return runs


def _give_database(scene: Scene, home: Path) -> None:
    """An empty database of Prefect's, made once for all scenes of the campaign."""
    home.mkdir(parents=True, exist_ok=True)
    made = scene.config.with_name("prefect")
    with FileLock(f"{made}.lock"):
        if not (made / "prefect.db").exists():
            making = made.with_name("prefect being made")
            making.mkdir(exist_ok=True)
            with _server_in(making, scene.port):
                pass
            making.rename(made)
    shutil.copy(made / "prefect.db", home / "prefect.db")


@contextmanager
def _server_in(home: Path, port: int) -> Iterator[None]:
    """A server of another workspace."""
    environment = environment_of(str(home), {})
    subprocess.run([sys.executable, "-c", START, str(home), str(port)], env=environment, cwd=CHECKOUT, check=True,
                   capture_output=True, timeout=300)  # fmt: skip
    try:
        yield
    finally:
        stop = [sys.executable, "-m", "flows.prefect_server", "stop", str(home)]
        subprocess.run(stop, env=environment, cwd=CHECKOUT, check=True, capture_output=True, timeout=120)


GONE, UNUSABLE = "database.* is gone or empty", "database was unusable"
TAKEN = "no database to write to"
PAGES_SECONDS = 900.0  # of patience: a server's start alone takes a minute on a very busy machine
_kind = partial(Kind, group="processes", seconds=PAGES_SECONDS)
KINDS = [
    _kind("Prefect server, killed", inflict=killed, small=False),
    _kind("Prefect server, hanging", inflict=hanging, small=False),
    _kind("killed with its pages open", inflict=crashed_run, small=False),
    _kind("port of the pages, taken by another program", inflict=port_of_another_program, template="whole",
          small=False),
    _kind("port of the pages, taken by another workspace", inflict=port_of_another_workspace, template="whole",
          small=False),
    _kind("server's record, naming another process", inflict=record_of_another_process, template="whole", small=False),
    *(
        _kind(f"Prefect's database, {_short(damage)}, at rest", template="whole",
              inflict=broken_at_rest(damage, noticed), small=damage is flipped)
        for damage, noticed in ((truncated, UNUSABLE), (flipped, UNUSABLE), (deleted, GONE),
                                (replaced_by_a_folder, UNUSABLE))
    ),
    *(
        _kind(f"Prefect's database, {_short(damage)}, while it runs", small=False,
              inflict=broken_while_running(damage, noticed))
        for damage, noticed in ((truncated, f"{UNUSABLE}|{TAKEN}"), (deleted, f"{GONE}|{TAKEN}"),
                                (replaced_by_a_folder, UNUSABLE))
    ),
]  # fmt: skip
