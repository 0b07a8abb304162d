"""The time line of a run: what its phases did when, what was cut short, what was mended, and when nothing ran."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from flows.context.timeline import Moment
from flows.ledger.facts import Remedy
from flows.report.facts import RunFacts
from nanogpt.plots.spans import Break, Mark, Span, State

ASLEEP, INTERRUPTED = "asleep", "interrupted"  # symptoms that are drawn as what they are


@dataclass(frozen=True)
class TimelineOfRun:
    lanes: list[str]
    spans: list[Span]
    marks: list[Mark]
    breaks: list[Break]


def timeline(facts: RunFacts) -> TimelineOfRun | None:
    """None where nothing was noted: of a run that older code began."""
    moments = facts.timeline
    if not any(moment.event == "step began" for moment in moments):
        return None
    start = moments[0].time
    lanes = {phase.name: f"{phase.number} {phase.title}" for phase in facts.phases}
    end = max(moment.time for moment in moments)
    spans = [
        Span(lanes[name], begin - start, finish - start, state)
        for name, begin, finish, state in _spans(moments, end)
        if name in lanes
    ]
    marks = [Mark("", moment.time - start, "killed") for moment in moments if moment.event == "killed"]
    for remedy in facts.remedies:
        if remedy.symptom not in (ASLEEP, INTERRUPTED):
            lane = lanes.get(remedy.step.partition(".")[0], "")
            marks.append(Mark(lane, _seconds(remedy.when) - start, remedy.symptom.replace("_", " ")))
    within = [mark for mark in marks if -1 <= mark.time <= end - start]
    breaks = [*_between_sessions(moments), *map(_sleep, _of(facts.remedies, ASLEEP))]
    moved = [Break(gap.begin - start, gap.end - start, gap.label) for gap in breaks if gap.begin >= start]
    used = [lane for lane in lanes.values() if any(span.lane == lane for span in spans)]
    return TimelineOfRun(used, spans, within, moved)


def _spans(moments: list[Moment], end: float) -> Iterator[tuple[str, float, float, State]]:
    """(phase, begin, end, state) of each time that a step was worked at, in seconds since the epoch."""
    open_steps: dict[str, float] = {}
    for moment in moments:
        if moment.event == "step began":
            open_steps[moment.name] = moment.time
        elif moment.event == "step ended" and moment.name in open_steps:
            state: State = "failed" if moment.outcome == "failed" else "done"
            begun = open_steps.pop(moment.name)
            yield _phase(moment.name), begun, max(begun, moment.time), state  # the clock may have been set back
        elif moment.event in ("killed", "session ended"):
            for name, begun in open_steps.items():
                yield _phase(name), begun, max(begun, moment.time), "cut short"
            open_steps = {}
    for name, begun in open_steps.items():  # this report is being written
        yield _phase(name), begun, max(begun, end), "done"


def _phase(step: str) -> str:
    return step.partition(".")[0]


def _between_sessions(moments: list[Moment]) -> Iterator[Break]:
    bounds = [moment for moment in moments if moment.event in ("session began", "session ended", "killed")]
    for before, after in pairwise(bounds):
        if after.event == "session began" and before.event != "session began":
            yield Break(before.time, max(before.time, after.time), "not running")


def _of(remedies: list[Remedy], symptom: str) -> Iterator[Remedy]:
    return (remedy for remedy in remedies if remedy.symptom == symptom)


def _sleep(remedy: Remedy) -> Break:
    """It is recorded when the machine wakes, with its length as the cost."""
    woken = _seconds(remedy.when)
    return Break(woken - remedy.cost_seconds, woken, "asleep")


def _seconds(when: str) -> float:
    """Local time as it is written in facts, in seconds since the epoch."""
    return datetime.fromisoformat(when).timestamp()
