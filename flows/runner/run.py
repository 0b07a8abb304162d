"""One run: where its files are, what it was asked for, and how a step of it is kept, done, recorded and shown."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from flows.context import notes
from flows.context.action_log import ActionLog
from flows.context.budget_clock import Clock
from flows.context.options import CHECKOUT, PHASES, RunOptions
from flows.context.watchdog import Watchdog
from flows.display.protocol import Display
from flows.ledger.ledger import Ledger, Step
from flows.machine import disk
from flows.machine.conditions import Surroundings
from flows.machine.worker import Worker
from flows.runner import interruption, resumption
from flows.runner.milestones import Milestones
from nanogpt import durable
from nanogpt.faults import CORRUPT_FILE, DISK_FULL, UserError, classify

SESSION = "session.json"
REMEDIES = "remedies.json"
MOST_REMEDIES = 1000  # kept of a run that never comes to rest


class Blocked(Exception):
    """A step whose inputs are not there because an earlier one failed or was left out."""

    shown_as = "Blocked"  # the name of the state on its page


class Paths:
    """Every place a run writes to, all under the workspace."""

    def __init__(self, workspace: Path, run: str):
        self.workspace = workspace
        self.state = workspace / "state" / run
        self.logs = workspace / "logs" / run
        self.checkpoints = workspace / "checkpoints" / run
        self.exports = workspace / "exports" / run
        self.reports = workspace / "reports" / run
        self.data = workspace / "data" / run
        self.downloads = workspace / "data" / "downloads"  # shared by all runs, verified by digest
        self.configs = self.state / "configs"
        self.markers = self.state / "markers"
        self.prefect_home = workspace / "state" / ".prefect"  # one server for all runs of a workspace

    def own_folders(self) -> list[Path]:
        return [self.state, self.logs, self.checkpoints, self.exports, self.reports, self.data]

    def folders(self) -> list[Path]:
        return [*self.own_folders(), self.downloads]


@dataclass
class PhaseRecord:
    """What became of a phase in this session."""

    number: int
    title: str
    status: str = "waiting"  # running | done | kept | failed | blocked | skipped
    seconds: float = 0.0
    cause: str | None = None
    next_command: str | None = None
    steps: list[dict] = field(default_factory=list)  # {name, title, state, reason, seconds}


class Run:
    """A run in this process: options, paths, markers, clock, log and display."""

    def __init__(self, options: RunOptions):
        self.options = options
        self.config = options.config
        self.paths = Paths(options.workspace, options.run)
        self.ledger = Ledger(self.paths.markers, options.workspace, CHECKOUT)
        self.log = ActionLog(self.paths.logs / "automation_log.txt")
        self.milestones = Milestones(CHECKOUT, options.workspace, options.run, self.paths.state)
        self.phases = [PhaseRecord(number, name.capitalize()) for number, name in enumerate(PHASES, 1)]
        self.watchdog: Watchdog | None = None  # set by the session
        self.worker = Worker(self.paths.logs / "worker.log", self._worker_was_killed, self.pulse)
        self.display: Display | None = None  # set by the session once it is known whether Prefect is there
        self.prefect_url: str | None = None
        self.finished_steps: set[str] = set()  # steps whose outputs may be used in this session
        self.remedies: list[dict] = []  # of this session
        self.past_remedies = _rows_of(self.paths.state / REMEDIES)  # of those before
        self.clock = Clock(self.paths.state / "clock.json", self.config.budget)
        self.surroundings = Surroundings(self)
        self.started, self.sessions = "", 0
        self._record_lock = threading.Lock()

    # -- a session -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take up what an interrupted session left: clock, start, count of sessions; --fresh sets the past aside."""
        if self.options.fresh:
            self._set_past_aside()
            self.past_remedies = []
        for folder in (self.paths.state, self.paths.logs):
            folder.mkdir(parents=True, exist_ok=True)
        resumption.set_aside_damaged(self, SESSION, REMEDIES)
        going_on = resumption.take_over_clock(self, self.latest_session())
        self.clock.save()
        before = self.latest_session() if going_on else {}
        self.started = before.get("started", _now())
        self.sessions = before.get("sessions", 0) + 1
        if interrupted := interruption.remedy_for(self, before):
            self.remedy(**interrupted)
        self._save_session("running")
        self.log.write(f"session {self.sessions} of run {self.options.run}: {self.options.command}")

    def end(self, stopped: bool) -> None:
        """Record how the session ended."""
        # A phase still running or waiting here was cut short by what no phase records: a mistake, a closed pipe.
        whole = all(record.status in ("done", "kept", "skipped") for record in self.phases)
        alone = self.options.only is not None and self.sessions > 1  # a part of an unfinished run, whose clock goes on
        self.clock.save(finished=not stopped and whole and not alone)
        self._save_session("stopped" if stopped else "finished" if whole else "failed")
        self.log.write("stopped by a person" if stopped else "ended" if whole else "ended with failures")

    def latest_session(self) -> dict:
        """The record of the session that goes on or was the last; empty before the first."""
        return notes.read(self.paths.state / SESSION)[0] or {}

    def _save_session(self, state: str) -> None:
        session = {
            "started": self.started, "sessions": self.sessions, "state": state, "pid": os.getpid(),
            "command": self.options.command, "prefect_url": self.prefect_url,
            "phases": [asdict(record) for record in self.phases],
        }  # fmt: skip
        with suppress(OSError):  # a full disk costs this note; the step that needs the disk says what is wrong
            notes.write(self.paths.state / SESSION, session)

    def _set_past_aside(self) -> None:
        """--fresh: everything that this run made is moved to <folder>.<time>; downloads stay."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        for folder in self.paths.own_folders():
            if folder.exists() and folder != self.paths.state:
                folder.rename(folder.with_name(f"{folder.name}.{stamp}"))
        past = self.paths.state.with_name(f"{self.paths.state.name}.{stamp}")
        past.mkdir()
        for entry in list(self.paths.state.iterdir()):
            if entry.name not in ("lock", "holder.json"):  # the lock is held, by this process
                entry.rename(past / entry.name)

    @cached_property
    def code_commit(self) -> str | None:
        """The commit that the checkout stands on; None outside a repository or without git."""
        try:
            import git
        except ImportError:  # GitPython's way to say that there is no git
            return None
        try:
            return git.Repo(CHECKOUT).head.commit.hexsha
        except (git.GitError, ValueError, OSError):
            return None

    def versions(self) -> dict:
        """Of Python, the packages that decide results, and this project where it is installed as one."""
        from importlib.metadata import PackageNotFoundError, version

        versions = {"python": platform.python_version()}
        for name in ("nanogpt-autopilot", "torch", "prefect", "tiktoken", "numpy"):
            with suppress(PackageNotFoundError):
                versions[name] = version(name)
        return versions

    # -- steps ---------------------------------------------------------------------------------------------------

    def do(self, step: Step) -> dict:
        """Keep or do one step, on this thread; its facts. Raises what the work raises, Blocked without its inputs."""
        decision, settings = self._decide(step)
        if decision.keep:
            self.display.step_kept(step.title, decision.reason)
        else:
            self.display.step(step.title, lambda: self._work(step, settings, decision))
        return self._settle(step, decision)

    def beside(self, step: Step) -> Callable[[], dict]:
        """Start a short step beside what follows; the returned function waits for it and gives its facts."""
        decision, settings = self._decide(step)
        if decision.keep:
            return lambda: self.do(step)
        submitted = self.display.start_in_background(step.title, lambda: self._work(step, settings, decision))

        def join() -> dict:
            try:
                submitted.result()
            except Exception as error:
                if classify(error) != DISK_FULL:
                    raise
                return self.do(step)
            return self._settle(step, decision)

        return join

    def ahead(self, step: Step) -> Callable[[], object]:
        """Start a step of a later phase before its turn; the returned function waits for it.

        A failure is left to its own phase, where it is tried again and told.
        """
        if self.options.only is not None:
            return lambda: None
        try:
            join = self.beside(step)
        except Exception:
            return lambda: None

        def wait() -> object:
            with suppress(Exception):
                return join()

        return wait

    def facts(self, step_name: str) -> dict:
        """The facts of a finished step. Raises Blocked when it has not finished in this session."""
        if step_name not in self.finished_steps:
            raise Blocked(f"{step_name} has not finished")
        return self.ledger.facts(step_name)

    def _decide(self, step: Step):
        if not step.regardless:
            for name in step.needs:
                self.facts(name)
        settings = step.settings(self)
        redo = step.name in self.options.redo and step.name not in self.finished_steps
        decision = self.ledger.decide(step, settings, redo)
        if decision.keep and decision.damage:
            self.ledger.mend(step)
            self._mended(step, decision.damage, "put back from its copy", "kept")
        return decision, settings

    def _work(self, step: Step, settings: dict, decision) -> None:
        self.log.write(f"{step.name}: started ({decision.reason})")
        self.pulse()
        began, remedies_before = self.clock.spent, len(self.remedies)
        made_again = self._mended(step, decision.damage, "made again", "") if decision.damage else None
        try:
            self._with_room(step, lambda: self.ledger.start(step, settings, decision.reason))
            outcome = self._with_room(step, lambda: step.work(self))
            self.surroundings.look(step.name)
            seconds = self.clock.spent - began
            if made_again:
                made_again |= {"outcome": "done", "cost_seconds": round(seconds, 1)}
                self._save_remedies()
            remedies = self.remedies[remedies_before:]
            self._with_room(step, lambda: self.ledger.finish(step, outcome, seconds, remedies, self.code_commit))
        except BaseException as error:
            if not isinstance(error, KeyboardInterrupt):
                disk.require_folders(self)
            cause, seconds = _cause_of(error), self.clock.spent - began
            with suppress(OSError):  # a full disk: the step then counts as interrupted
                self.ledger.fail(step, cause, seconds, self.remedies[remedies_before:])
            self._record(step, "failed", cause, seconds)
            self.log.write(f"{step.name}: failed: {cause}", level="error")
            raise
        self._record(step, "done", decision.reason, seconds)
        self.log.write(f"{step.name}: finished in {seconds:.1f} s")
        self.pulse()

    def _with_room(self, step: Step, work: Callable[[], Any]) -> Any:
        """work(), again when there was no room on the disk and there is some again.

        In a thread nobody could stop the wait: there it fails, and is done again where it is waited for.
        """
        if threading.current_thread() is threading.main_thread():
            return disk.with_room(self, step.name, work)
        return work()

    def _mended(self, step: Step, damage: str, remedy: str, outcome: str) -> dict:
        return self.remedy(step=step.name, symptom=CORRUPT_FILE, evidence=damage, remedy=remedy, outcome=outcome,
                           cost_seconds=0.0, steps_lost=0)  # fmt: skip

    def _settle(self, step: Step, decision) -> dict:
        if decision.keep and step.name not in self.finished_steps:  # else it was done ahead, in this session
            marker = self.ledger.marker(step.name) or {}
            self._record(step, "kept", decision.reason, marker.get("seconds") or 0.0)
            self.log.write(f"{step.name}: kept ({decision.reason})")
        self.finished_steps.add(step.name)
        self.clock.save()
        return self.ledger.facts(step.name)

    def _record(self, step: Step, state: str, reason: str, seconds: float) -> None:
        phase = self.phases[PHASES.index(phase_of(step))]
        row = {"name": step.name, "title": step.title, "state": state, "reason": reason, "seconds": seconds}
        with self._record_lock:
            phase.steps = [old for old in phase.steps if old["name"] != step.name] + [row]

    # -- phases --------------------------------------------------------------------------------------------------

    def phase(self, name: str, function: Callable[[Run], None], after: Callable[[], object] | None = None) -> None:
        """Run a phase, `after` something begun ahead; its failure is recorded and never stops what can still run."""
        if after is not None:
            after()
        record = self.phases[PHASES.index(name)]
        if self.options.only not in (None, name):
            record.status = "skipped"
            return
        if self.options.only is not None:
            self._accept_finished_steps()
        record.status = "running"
        try:
            self.display.phase(f"{record.number} {record.title}", lambda: function(self))
        except UserError as error:
            record.status, record.cause = "failed", str(error)
            if not self._is_trained(name):  # after that there is work to report, whoever made the mistake
                raise
        except Blocked as error:
            record.status, record.cause = "blocked", str(error)
        except disk.Unwritable as error:  # no later phase could write either
            record.status, record.cause = "failed", str(error)
            raise
        except Exception as error:
            record.status, record.cause = "failed", _cause_of(error)
        else:
            record.status = "kept" if all(step["state"] == "kept" for step in record.steps) else "done"
        if record.status in ("failed", "blocked"):
            record.next_command = self.options.command
            self.tell(f"{record.number} {record.title} {record.status}: {record.cause}", "error")
        record.seconds = sum(step["seconds"] for step in record.steps)
        self.clock.save()

    def _is_trained(self, phase: str) -> bool:
        return PHASES.index(phase) > PHASES.index("training")

    def _accept_finished_steps(self) -> None:
        """With --only, the other phases' steps count as they are, when their outputs are whole."""
        for step in by_need(self.steps()):
            if phase_of(step) != self.options.only and set(step.needs) <= self.finished_steps:
                with suppress(OSError, UserError, Blocked, KeyError):  # what its settings are read from is not there
                    if self.ledger.decide(step, step.settings(self)).keep:
                        self.finished_steps.add(step.name)

    def steps(self) -> list[Step]:
        """Every step of this run, in order."""
        from flows.phases import steps_of

        return steps_of(self.rung_names(), self.config.tests)

    def rung_names(self) -> list[str]:
        """The models that the plan chose; before there is a plan, those it may choose from."""
        chosen = [rung["name"] for rung in self.ledger.facts("configuration.plan").get("ladder", [])]
        return chosen or [rung.name for rung in self.options.rungs]

    # -- telling -------------------------------------------------------------------------------------------------

    def tell(self, message: str, level: str = "info") -> None:
        """A line for the person: terminal, action log and the task's page."""
        self.log.write(message, level=level)
        if self.display is not None:  # a session that begins has none yet
            self.display.note(message, level)

    def remedy(self, **row: Any) -> dict:
        """Record a remedy taken: when, step, symptom, evidence, remedy, outcome, cost_seconds, steps_lost; the row."""
        row = {"when": datetime.now().isoformat(timespec="seconds"), **row}
        self.remedies.append(row)
        self._save_remedies()
        self.tell(f"{row['symptom']}: {row['evidence']} -> {row['remedy']}", "warning")
        return row

    def add_cost(self, row: dict, seconds: float) -> None:
        """What a remedy costs beyond what was known when it was recorded."""
        row["cost_seconds"] = round(row["cost_seconds"] + seconds, 1)
        self._save_remedies()

    def all_remedies(self) -> list[dict]:
        """Of every session since the run began, as they came."""
        kept = [row for step in self.steps() for row in (self.ledger.marker(step.name) or {}).get("remedies", [])]
        rows = {durable.digest(row): row for row in [*kept, *self.past_remedies, *self.remedies]}
        return sorted(rows.values(), key=lambda row: row["when"])

    def _save_remedies(self) -> None:
        with self._record_lock, suppress(OSError):  # a full disk: the markers keep those of their steps
            rows = [*self.past_remedies, *self.remedies]
            notes.write(self.paths.state / REMEDIES, {"remedies": rows[-MOST_REMEDIES:]})

    def pulse(self) -> None:
        """The run is alive: its open steps' markers and its watchdog are told."""
        self.ledger.pulse()
        if self.watchdog is not None:
            self.watchdog.beat()

    def hung_up(self) -> None:
        """The terminal was closed, and the run goes on without it."""
        self.remedy(
            step=self._phase_under_way(), symptom="hangup", evidence="the terminal was closed (SIGHUP)",
            remedy="went on without it", outcome="nothing was lost", cost_seconds=0.0, steps_lost=0,
        )  # fmt: skip

    def _worker_was_killed(self, evidence: str, seconds: float) -> None:
        self.remedy(
            step=self._phase_under_way(), symptom="killed", evidence=evidence, remedy="once more in a fresh process",
            outcome="nothing was lost", cost_seconds=round(seconds, 1), steps_lost=0,
        )  # fmt: skip

    def _phase_under_way(self) -> str:
        return next((record for record in self.phases if record.status == "running"), self.phases[0]).title.lower()

    def milestone(self, phase: str, title: str, body: str, files: list[Path]) -> None:
        """Commit small artefacts on the branch autopilot/<run>; HEAD, index and work tree stay as they are.

        Nothing is committed for a phase whose steps were all kept, unless a kill came between them and their commit.
        """
        all_kept = all(step["state"] == "kept" for step in self.phases[PHASES.index(phase)].steps)
        told = {commit["title"] for commit in self.milestones.commits()}
        if not self.config.milestones or (all_kept and " ".join(title.split()) in told):
            return
        commit = self.milestones.commit(title, body, files)
        if commit:
            self.log.write(f"milestone {commit[:10]}: {title}")
        else:
            self.log.write(f"no milestone for {title!r}: {self.milestones.reason}", level="warning")

    def relative(self, path: Path) -> str:
        return os.path.relpath(path, self.paths.workspace)


def by_need(steps: Iterable[Step]) -> list[Step]:
    """Each step after those it needs: one that is done ahead of its phase comes first."""
    named = {step.name: step for step in steps}
    order = TopologicalSorter({step.name: step.needs for step in named.values()}).static_order()
    return [named[name] for name in order if name in named]


def phase_of(step: Step) -> str:
    """The phase a step belongs to is the first part of its name."""
    return step.name.split(".")[0]


def _cause_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by a person"
    return f"{error}".strip() or type(error).__name__


def _rows_of(path: Path) -> list[dict]:
    """The rows of remedies in a note."""
    rows = (notes.read(path)[0] or {}).get("remedies", [])
    return [row for row in rows if "when" in row] if isinstance(rows, list) else []


def _now() -> str:
    return datetime.now().isoformat(sep=" ", timespec="seconds")
