"""The files that a run of the autopilot keeps in state/RUN, as far as they are shown; read, and never written.

They are the run's own: session.json, plan.json, clock.json, remedies.json and a marker for each step. A file that is
not there, or not as expected, leaves out what it would have said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from nanogpt import durable
from nanogpt.living import lives
from nanogpt.records import from_json
from nanogpt.watch.views import Happening, PhaseState, PhaseView, RunState

Kind = TypeVar("Kind")
LARGEST = 1e15  # of a number that is shown: bytes of memory have the most digits
ENDINGS: dict[str, PhaseState] = {"done": "done", "kept": "done", "skipped": "done", "running": "running"}


@dataclass(frozen=True)
class PhaseNote:
    number: int
    title: str
    status: str = "waiting"
    seconds: float = 0.0
    cause: str | None = None


@dataclass(frozen=True)
class SessionNote:
    state: RunState
    pid: int
    prefect_url: str | None = None
    phases: list[PhaseNote] = field(default_factory=list)
    born: float | None = None  # of its process; None in an older run's note

    @property
    def is_running(self) -> bool:
        return self.state == "running" and lives(self.pid, self.born)


@dataclass(frozen=True)
class PlannedModel:
    name: str
    parameters: int
    max_iters: int
    seconds: float
    tokens: int = 0
    batch_size: int = 1
    gradient_accumulation: int = 1
    block_size: int = 1

    @property
    def steps(self) -> int:
        """That its time allows."""
        step_tokens = self.batch_size * self.gradient_accumulation * self.block_size
        return min(self.max_iters, self.tokens // max(1, step_tokens)) if self.tokens else self.max_iters


@dataclass(frozen=True)
class PlannedPhase:
    number: int
    planned_seconds: float | None = None


@dataclass(frozen=True)
class PlanNote:
    budget_seconds: float | None = None
    ladder: list[PlannedModel] = field(default_factory=list)
    phases: list[PlannedPhase] = field(default_factory=list)

    def seconds_of(self, phase: int) -> float | None:
        return next((planned.planned_seconds for planned in self.phases if planned.number == phase), None)


@dataclass(frozen=True)
class ClockNote:
    budget_seconds: float
    spent_seconds: float
    noted_at: float | None = None  # by time.monotonic(), which is one for all processes; None in an older run's note


@dataclass(frozen=True)
class MarkerNote:
    """The newest attempt at a step."""

    step: str
    state: str
    started_at: str = ""
    finished_at: str = ""
    failed_at: str = ""
    cause: str = ""
    seconds: float = 0.0

    @property
    def ended_at(self) -> str:
        return self.finished_at or self.failed_at


@dataclass(frozen=True)
class RemedyNote:
    time: str
    step: str
    symptom: str
    evidence: str
    remedy: str
    outcome: str = ""


class RunFiles:
    """state/RUN of a workspace."""

    def __init__(self, state: Path):
        self.state = state

    @property
    def exists(self) -> bool:
        return (self.state / "session.json").is_file()

    def session(self) -> SessionNote | None:
        return self._note(SessionNote, "session.json")

    def plan(self) -> PlanNote:
        return self._note(PlanNote, "plan.json") or PlanNote()

    def clock(self, is_running: bool) -> ClockNote | None:
        """The budget and what is spent of it; of a running session also the time since that was noted."""
        noted = self._note(ClockNote, "clock.json")
        if noted is None or noted.noted_at is None or not is_running:
            return noted
        since = max(0.0, time.monotonic() - noted.noted_at)  # whatever the calendar was set to meanwhile
        return replace(noted, spent_seconds=noted.spent_seconds + since)

    def remedies(self) -> list[Happening]:
        """What went wrong and was mended, the latest last."""
        note, _ = durable.read_note(self.state / "remedies.json")
        rows = (note or {}).get("remedies", [])
        found = []
        for row in rows if isinstance(rows, list) else []:
            try:
                remedy = from_json(RemedyNote, sound(row))
            except ValueError:
                continue
            words = f"{remedy.symptom}: {remedy.evidence} -> {remedy.remedy}"
            words += f" ({remedy.outcome})" if remedy.outcome else ""
            found.append(Happening(_seconds(remedy.time), remedy.step, words, is_trouble=True))
        return found

    def phases(self, session: SessionNote, plan: PlanNote) -> list[PhaseView]:
        """Each phase: of a session that has ended as its record says, of one that runs or was killed by the markers of
        its steps."""
        if session.state != "running":
            ended = [(phase, ENDINGS.get(phase.status, "failed")) for phase in session.phases]
            failed = any(phase.cause for phase in session.phases)
            ended_at = (self.state / "session.json").stat().st_mtime if failed else 0.0
            return [
                PhaseView(
                    phase.number,
                    phase.title,
                    "waiting" if phase.status in ("waiting", "running") else state,
                    phase.seconds,
                    plan.seconds_of(phase.number),
                    *((_line(f"{phase.status}: {phase.cause}"), ended_at) if phase.cause else ()),
                )
                for phase, state in ended
            ]
        markers = list(self._markers())
        at = _phase_at_work(session.phases, markers)
        phases = [self._phase(phase, markers, at, plan) for phase in session.phases]
        is_killed = not session.is_running
        return [replace(phase, state="waiting") if is_killed and phase.number == at else phase for phase in phases]

    def _phase(self, phase: PhaseNote, markers: list[MarkerNote], at: int, plan: PlanNote) -> PhaseView:
        own = [marker for marker in markers if _phase_of(marker) == phase.title.lower()]
        failed = [marker for marker in own if marker.state == "failed"] if phase.number < at else []
        state: PhaseState = "waiting"
        if phase.number == at:
            state = "running"
        elif phase.number < at:
            state = "failed" if failed else "done"
        started = [_seconds(marker.started_at) for marker in own if marker.state == "started"]
        seconds = sum(marker.seconds for marker in own if marker.state == "finished") if phase.number <= at else 0.0
        running = max(0.0, time.time() - min(started)) if started and phase.number == at else 0.0
        trouble = (_line(f"failed: {failed[-1].cause}"), _seconds(failed[-1].failed_at)) if failed else ()
        return PhaseView(phase.number, phase.title, state, seconds + running, plan.seconds_of(phase.number), *trouble)

    def _markers(self) -> Iterator[MarkerNote]:
        for path in sorted((self.state / "markers").glob("*.json")):
            if (marker := self._note(MarkerNote, f"markers/{path.name}")) is not None:
                yield marker

    def _note(self, kind: type[Kind], name: str) -> Kind | None:
        try:
            return from_json(kind, sound(durable.read_json(self.state / name)))
        except (OSError, ValueError):
            return None


def sound(value: Any) -> Any:
    """A JSON value with None for each number that no file of a training has: NaN, infinity, and beyond LARGEST; and
    without lone surrogates, which have no bytes in UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int | float):
        return value if abs(value) <= LARGEST else None  # NaN is not
    if isinstance(value, list):
        return [sound(part) for part in value]
    if isinstance(value, dict):
        return {key: sound(part) for key, part in value.items()}
    return value


def _line(text: str) -> str:
    return " ".join(text.split())


def _phase_of(marker: MarkerNote) -> str:
    return marker.step.partition(".")[0]


def _phase_at_work(phases: list[PhaseNote], markers: list[MarkerNote]) -> int:
    """The number of the phase that is under way: the first with a step at work; steps of later ones may run in the
    background. Between two steps, the phase of the one that ended last."""
    numbers = {phase.title.lower(): phase.number for phase in phases}
    known = [marker for marker in markers if _phase_of(marker) in numbers]
    at_work = [numbers[_phase_of(marker)] for marker in known if marker.state == "started"]
    if at_work:
        return min(at_work)
    latest = max(known, key=lambda marker: marker.ended_at, default=None)
    return numbers[_phase_of(latest)] if latest is not None else 1


def _seconds(written: str) -> float:
    """Since the epoch; 0 for a time that cannot be read."""
    try:
        return datetime.fromisoformat(written).timestamp()
    except ValueError:
        return 0.0
