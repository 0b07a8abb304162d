"""What kills cost a training, seen from outside: steps done again, seconds until it trains again; and whether two
trainers were ever at work in one folder."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import psutil

from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.process import is_trainer, marked
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import Row
from nanogpt import durable

WATCH_SECONDS = 0.1


@dataclass
class _Open:
    """A kill of a training that has not continued yet."""

    reached: int  # the last step that is known to have been done
    events: int  # so many there were


def heartbeat_of(scene: Scene) -> Row:
    """The trainer's last sign of life; empty before the first."""
    try:
        heartbeat: Row = durable.read_json(scene.model / "heartbeat")
        return heartbeat
    except (OSError, ValueError):
        return {}


def trains_since(scene: Scene, seconds: float) -> bool:
    """Whether a step was done after that time (since the epoch)."""
    heartbeat = heartbeat_of(scene)
    return heartbeat.get("activity") == "training" and heartbeat["time"] > seconds


class Losses:
    """Steps and seconds lost with each kill of a training. `look` is to be called often."""

    def __init__(self, scene: Scene):
        self.steps: list[int] = []
        self.seconds: list[float] = []  # from the restart, or the kill of a trainer alone, to the first step after it
        self._scene = scene
        self._open: _Open | None = None
        self._since: float | None = None  # seconds since the epoch

    def killed(self, in_training: bool) -> None:
        """To be called after a kill and before the restart."""
        self.count()
        if in_training and self._open is None:  # else it was killed before it had even continued
            reached = max(self._scene.last_step(), heartbeat_of(self._scene).get("step", 0))
            self._open = _Open(reached, len(self._scene.events()))
        if self._open:
            self._since = time.time()

    def look(self) -> None:
        """Notice that it trains again."""
        if self._since is None:
            return
        if trains_since(self._scene, self._since):
            self.seconds.append(heartbeat_of(self._scene)["time"] - self._since)
            self._since = None

    def count(self) -> None:
        """Notice where it continued."""
        if self._open is None:
            return
        for row in self._scene.events()[self._open.events :]:
            if row["event"] in ("resumed", "started"):
                self.steps.append(max(0, self._open.reached - row["step"]))
                self._open = None
                return


class TwoTrainers:
    """Watches for trainers that are at work in one folder at the same time: both have its metrics open.

    A new one may wait for the lock meanwhile; an orphan may save. `orphan_seconds` is the longest that one was seen to
    be left without its orchestrator.
    """

    def __init__(self, scene: Scene):
        self.orphan_seconds = 0.0
        self._metrics, self._mark = str(scene.model / "metrics.jsonl"), str(scene.workspace)
        self._seen_twice: str | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="two trainers", daemon=True)

    def __enter__(self) -> TwoTrainers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()

    def check(self) -> None:
        """Raises NotSurvived when there were two."""
        if self._seen_twice:
            raise NotSurvived(f"two trainers at work in one folder: {self._seen_twice}")

    def _watch(self) -> None:
        orphaned: dict[int, float] = {}  # since when, by pid
        while not self._closing.wait(WATCH_SECONDS):
            now = time.monotonic()
            trainers = [process for process in marked(self._mark) if is_trainer(process)]
            at_work = [process for process in trainers if self._is_at_work(process)]
            if len(at_work) > 1 and sum(map(self._is_at_work, at_work)) > 1:  # the first may have ended meanwhile
                self._seen_twice = ", ".join(map(str, at_work))
            orphaned = {process.pid: orphaned.get(process.pid, now) for process in trainers if _is_orphan(process)}
            self.orphan_seconds = max([self.orphan_seconds, *(now - since for since in orphaned.values())])

    def _is_at_work(self, process: psutil.Process) -> bool:
        try:
            parent = process.parent()
            if parent and is_trainer(parent):  # its copy, between vfork() and exec() of what it starts
                return False
            return any(file.path == self._metrics for file in process.open_files())
        except psutil.Error:
            return False


def _is_orphan(process: psutil.Process) -> bool:
    """Whether its parent is another than its command line names."""
    try:
        words = process.cmdline()
        return "--parent" in words and words[words.index("--parent") + 1] != str(process.ppid())
    except (psutil.Error, IndexError):
        return False
