"""One start of a run: its record in state/<run>/session.json, and what it takes over from the starts before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from flows.context.budget_clock import BudgetClock
from flows.context.journal import Journal
from flows.context.options import RunOptions
from flows.context.paths import Paths
from flows.ledger.ledger import Ledger
from flows.planning import missed_paces
from flows.runner import interruption, resumption
from flows.runner.phase_runner import PhaseRunner
from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.living import born, lives
from nanogpt.records import from_json, to_json

FILE, COPY = "session.json", "copies/session.json"
State = Literal["running", "stopped", "finished", "failed", "partial"]  # partial: what --only asked for is done


@dataclass(frozen=True)
class PhaseNote:
    number: int
    title: str
    status: str
    seconds: float = 0.0
    cause: str | None = None
    next_command: str | None = None


@dataclass(frozen=True)
class SessionRecord:
    """What session.json says of the latest start of a run."""

    started: str  # the first start of the work that this session continues
    sessions: int
    state: State
    pid: int
    command: str
    prefect_url: str | None = None
    phases: list[PhaseNote] = field(default_factory=list)
    born: float | None = None  # of its process, as nanogpt.living says; earlier versions kept none

    @property
    def is_running(self) -> bool:
        return self.state == "running" and lives(self.pid, self.born)


def read_session(state: Path) -> SessionRecord | None:
    """The record of the session that is under way or was the last, by its second copy where the first is damaged:
    nothing else holds a run's options. None before the first."""
    for file in (FILE, COPY):
        note, _ = durable.read_note(state / file)
        with suppress(ValueError):
            if note is not None:
                return from_json(SessionRecord, note)
    return None


class Session:
    """This start of the run. `started`, `number` and `follows_a_kill` are known once it has begun."""

    def __init__(
        self,
        options: RunOptions,
        paths: Paths,
        journal: Journal,
        clock: BudgetClock,
        ledger: Ledger,
        phases: PhaseRunner,
        step_names: Callable[[], Sequence[str]],
    ):
        self._options, self._paths, self._journal, self._clock = options, paths, journal, clock
        self._ledger, self._phases, self._step_names = ledger, phases, step_names
        self.started, self.number, self.follows_a_kill = "", 0, False
        self.prefect_url: str | None = None

    def begin(self) -> None:
        """Take over what an interrupted session left: clock, start, number; --fresh sets the past aside."""
        paths, journal = self._paths, self._journal
        if self._options.fresh:
            set_past_aside(paths)
            journal.forget_past()
        self._unblock_folders()
        for folder in (paths.state, paths.logs):
            folder.mkdir(parents=True, exist_ok=True)
        latest = read_session(paths.state)
        resumption.set_aside_damaged([journal.file, paths.state / missed_paces.FILE], journal, paths)
        instead = "its second copy is used" if latest else "begun anew"
        resumption.set_aside_damaged([paths.state / FILE], journal, paths, instead)
        past = resumption.Past(paths, self._ledger, self._step_names())
        state, started = (latest.state, latest.started) if latest else (None, None)
        resumed = resumption.take_over_clock(self._clock, state, started, past, journal)
        self._clock.save()
        before = latest if resumed else None
        self.started = before.started if before else _now()
        self.number = before.sessions + 1 if before else 1
        self.follows_a_kill = before is not None and before.state == "running"
        if self.follows_a_kill:
            interruption.record(self._ledger, paths, journal, self._step_names())
        journal.timeline.note("session began", str(self.number))
        self._save("running")
        journal.log(f"session {self.number} of run {self._options.run}: {self._options.command}")

    def _unblock_folders(self) -> None:
        """Set aside what stands in the place of a folder of the run. Raises UserError where that may be a person's."""
        paths = self._paths
        for folder in paths.own_folders():
            if os.path.lexists(folder.parent) and not folder.parent.is_dir():
                raise UserError(f"--workspace {paths.workspace}: {folder.parent} is no folder, and one is needed")
        models = [name.partition(".")[2] for name in self._step_names() if name.startswith("training.")]
        inner = [paths.markers, paths.state / "copies", paths.configs, paths.reports / "figures"]
        tokens = ("char", "char_bytes", "byte", "bpe", "gpt2", "cl100k_base", "o200k_base")
        inner += [paths.data / name for name in ("text", *tokens)] + [paths.model(name) for name in models]
        for folder in [*paths.own_folders(), *inner]:
            if durable.unblock_folder(folder):
                self._journal.message(
                    f"{paths.relative(folder)} was no folder: it is now {folder.name}{durable.DAMAGED}", "warning"
                )
            if os.path.lexists(folder) and not folder.is_dir():
                raise UserError(f"{folder} is a link to nothing; if it leads to another disk, is that mounted?")

    def end(self, stopped: bool) -> None:
        """Record how the session ended."""
        whole = self._phases.is_whole()
        is_part = self._options.only is not None and self.number > 1  # of an unfinished run, whose clock continues
        self._clock.save(finished=not stopped and self._phases.is_over() and not is_part)
        is_all = self._options.only is None or self._phases.have_finished(self._step_names())
        done: State = "finished" if is_all else "partial"
        state: State = "stopped" if stopped else done if whole else "failed"
        self._save(state)
        self._journal.timeline.note("session ended", str(self.number), state)
        self._journal.log("stopped by a person" if stopped else "ended" if whole else "ended with failures")

    def _save(self, state: State) -> None:
        phases = [
            PhaseNote(record.number, record.title, record.status, record.seconds, record.cause, record.next_command)
            for record in self._phases.records
        ]
        pid = os.getpid()
        record = SessionRecord(
            self.started, self.number, state, pid, self._options.command, self.prefect_url, phases, born(pid)
        )
        with suppress(OSError):  # a full disk costs this note; the step that needs the disk says what is wrong
            for file in (FILE, COPY):
                durable.write_note(self._paths.state / file, to_json(record))


def set_past_aside(paths: Paths) -> None:
    """--fresh: everything that this run made is moved to <folder>.<time>, so that none takes another's place; downloads
    stay."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for folder in paths.own_folders():
        if folder.exists() and folder != paths.state:
            folder.rename(folder.with_name(f"{folder.name}.{stamp}"))
    past = paths.state.with_name(f"{paths.state.name}.{stamp}")
    past.mkdir()
    for entry in list(paths.state.iterdir()):
        if entry.name not in ("lock", "holder.json"):  # the lock is held, by this process
            entry.rename(past / entry.name)


def _now() -> str:
    return datetime.now().isoformat(sep=" ", timespec="seconds")
