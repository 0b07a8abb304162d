"""How much slower than a measurement of seconds a training is here: as those of earlier runs were, or by experience.

A measurement sees a moment. The host of a virtual machine moves its cores between caches while a training runs: on two
cores of an AMD EPYC a step of micro took 36 ms while a cache line went from one core to the other and back in 52 ns,
and 49 ms while that took 334 ns; one or the other for 5 to 60 s, with nothing else running (docs/plan.md).
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from flows.ledger.facts import PLANNED, SYSTEM, MeasuredModel, Planned, Trained, trained
from flows.ledger.markers import FINISHED, MarkerFiles
from flows.planning.missed_paces import slowdown
from nanogpt.machine import cores_may_part, processor_name
from nanogpt.records import from_json

TRAININGS = 5  # of earlier runs, the newest
LEAST, MOST = 0.8, 2.0  # what is beyond was no matter of the machine alone
APART = 1.13  # by experience, for more than one thread where cores may part


def expected_pace(measured: MeasuredModel, states: Path, started: str) -> float:
    """Times the measured seconds that the steps of a training are expected to take: the median of what trainings took
    on this machine in the runs under `states` that began before `started`; without any, by experience."""
    taken = [pace for _, pace in sorted(_paces(states, started))[-TRAININGS:]]
    if taken:
        return min(MOST, max(LEAST, median(taken)))
    return APART if measured.device == "cpu" and measured.threads > 1 and cores_may_part() else 1.0


def _paces(states: Path, started: str) -> list[tuple[str, float]]:
    """(when, times the measured seconds) of each finished training of another run on this machine."""
    found = []
    for folder in states.glob("*/markers"):
        markers = MarkerFiles(folder)
        system, plan = markers.read(SYSTEM.step)[0], markers.read(PLANNED.step)[0]
        if not (system and plan and system.facts.get("processor") == processor_name()):
            continue
        try:
            planned = from_json(Planned, plan.facts)
            for model in planned.ladder:
                marker = markers.read(trained(model.name).step)[0]
                if marker and marker.state == FINISHED and marker.started_at[:19] < (started or "9")[:19]:
                    times = slowdown(model, from_json(Trained, marker.facts))
                    found.append((marker.started_at, times * model.pace))
        except ValueError:  # of another version
            continue
    return found
