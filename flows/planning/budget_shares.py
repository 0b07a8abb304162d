"""How the budget is divided: what the other phases take on this machine, and what that leaves for training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flows.ledger.facts import FETCHED, SYSTEM, Key
from flows.ledger.markers import FINISHED, STARTED, MarkerFiles, last_finished
from nanogpt.config import SMALL_TEXT
from nanogpt.machine import processor_name

START_SECONDS = 4.0  # imports, what lies between the steps, the end (measured 2.7; Prefect's server starts meanwhile)
MARGIN = 0.05  # of the budget: noise of the machine
LEAST_SECONDS = 10.0  # for a training that is planned again when its time is gone
LEAST_SHARE = 0.1  # of the budget for training, however short it is
MEASURE_SECONDS = 5.0  # of real steps for each model in phase 3, less in a short budget
MEASURED_MODELS = 3  # in minutes: the others would learn a small text by heart, or are too slow; in hours four or five
NOTICEABLE = 1.5  # times the expected seconds: phases of two or three vary by less on a quiet machine
BUDGET_FOR_MICRO_BATCHES = 1200.0  # seconds from which on a search for the fastest one can pay
BUDGET_FOR_COMPILING = 1200.0  # seconds from which on a try of torch.compile can pay
COMPILING_SECONDS = 25.0  # of a try: compiling took 18 to 22 s on two cores
# Bytes of a large text a second, fetched and prepared. To prepare 500 MB on two cores took 11.0 MB/s, 6.6 on busy ones
# (docs/data.md); the download is assumed, because no network was here to measure it.
TEXT_RATE = 3e6
LARGEST_BASELINE_TEXT = 8.0  # megabytes; the baselines read no more
DECODING_SECONDS = 3.0  # of a decoding speed, less in a short budget
BUDGET_FOR_QUALITY = 180.0  # seconds from which on the models are compared with intervals, and samples judged
QUALITY_SECONDS = 10.0  # 9.5 s on two cores, for micro and tiny_model on 55,770 bytes; MOST_PRODUCTS keeps others to it
BUDGET_FOR_STUDY = 180.0  # seconds from which on there is time to look into the best model
BUDGET_FOR_COMPRESSION = 600.0  # seconds from which on smaller models are made of the best one
COMPRESSION_SHARE, COMPRESSION_SECONDS = 0.05, 900.0  # of the budget, at most so many seconds
STUDY_SECONDS = 5.0  # on one core: 2.1 s for micro, 4.0 for tiny_model, figures included

# Steps whose time depends on the machine and the text alone: what the last run took is the best forecast.
STEPS = {
    "environment": ("folders", "system", "device", "packages"),
    "implementation": ("checks",),
    "dataset": ("clean", "characters", "bpe"),
    "evaluation": ("samples", "speed", "baselines", "quality", "study"),
    "deployment": ("export", "formats", "server", "examples"),
    "documentation": ("figures", "report"),
}
# Those of them that a run with less does not do.
LEAST_BUDGETS = {"evaluation.quality": BUDGET_FOR_QUALITY, "evaluation.study": BUDGET_FOR_STUDY}
COMPARED = ("implementation", "dataset")  # pure computation; the first phase may wait for torch to come from the disk
OF_THE_TEXT = ("dataset.clean", "dataset.characters", "dataset.bpe", "evaluation.baselines")


def measure_seconds(budget: float) -> float:
    """For the steps of one model in phase 3."""
    return min(MEASURE_SECONDS, budget / 60)


def decoding_seconds(budget: float) -> float:
    """For the measurement of the decoding speed."""
    return min(DECODING_SECONDS, budget / 200)


def micro_batch_seconds(budget: float) -> float:
    """For the search for the fastest micro-batch; none in a short budget."""
    return min(60.0, budget / 100) if budget >= BUDGET_FOR_MICRO_BATCHES else 0.0


def compiling_seconds(budget: float) -> float:
    """For the try of torch.compile; none in a short budget."""
    return COMPILING_SECONDS if budget >= BUDGET_FOR_COMPILING else 0.0


def compression_seconds(budget: float) -> float:
    """For the table of smaller models; none in a short budget."""
    return min(COMPRESSION_SECONDS, COMPRESSION_SHARE * budget) if budget >= BUDGET_FOR_COMPRESSION else 0.0


def by_the_clock(phase: str, budget: float) -> float:
    """Seconds of a phase that the clock ends, on any machine."""
    return compression_seconds(budget) if phase == "deployment" else 0.0


def expected(
    state: Path,
    budget: float,
    text_bytes: int,
    started: str = "",
    done: Mapping[str, float] = MappingProxyType({}),
    slowdown: float = 0.0,
) -> dict[str, float]:
    """Seconds of each phase but training, without judging the models: as the newest run under `state` before `started`
    took them on this machine, else by experience.

    `done`: seconds of the steps that this run has done so far. Phases not begun take as much longer or shorter as these
    did, and `slowdown` times as long at least; never shorter than both experience and the earlier run say.
    """
    experience, taken = by_experience(budget, text_bytes), taken_before(state, budget, text_bytes, started)
    phases = {**experience, **taken}
    now = max(slowdown, slowness(done, phases))
    begun = {step.partition(".")[0] for step in done}
    forecast = {
        name: seconds if name in begun else max(now * seconds, min(seconds, experience[name]))
        for name, seconds in phases.items()
    }
    return {name: seconds + by_the_clock(name, budget) for name, seconds in forecast.items()}


def by_experience(budget: float, text_bytes: int) -> dict[str, float]:
    """What the two cores of docs/whole_run.md take."""
    megabytes = text_bytes / 1e6
    return {
        "environment": 3.0,
        "implementation": 2.0,
        # 16.4 s of 2 minutes on one kind of machine there.
        "configuration": 10.0
        + MEASURED_MODELS * measure_seconds(budget)
        + 1.5 * micro_batch_seconds(budget)
        + compiling_seconds(budget),
        "dataset": 0.5 + (0.7 * megabytes if text_bytes <= SMALL_TEXT else text_bytes / TEXT_RATE),
        # Without the project's tests, with judging: 6.6 s of 2 minutes on one kind of machine, 7.3 on the other.
        "evaluation": 3.5
        + 1.2 * decoding_seconds(budget)
        + 1.5 * min(megabytes, LARGEST_BASELINE_TEXT)
        + (QUALITY_SECONDS if budget >= BUDGET_FOR_QUALITY else 0.0)
        + (STUDY_SECONDS if budget >= BUDGET_FOR_STUDY else 0.0),
        # Without the compression: 0.5 s for the export, 1.0 for the other forms, 3.1 for the server and 3.1 for the
        # examples, with other work on both cores; all of it 3 to 4 s on quiet ones.
        "deployment": 6.0,
        "documentation": 1.5,
    }


def taken_before(state: Path, budget: float, text_bytes: int, started: str = "") -> dict[str, float]:
    """Seconds of the phases that a run under `state` finished whole on this machine before `started`: of their steps
    that are done in this `budget`. Of the text's, on as much text."""
    seconds: dict[str, float] = {}
    folders = [folder for folder in state.glob("*/markers") if folder.is_dir()]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime):  # the newest has the last word
        markers = MarkerFiles(folder)
        if _fact(markers, SYSTEM, "processor") != processor_name():
            continue
        same_text = _fact(markers, FETCHED, "bytes") == text_bytes
        for phase, names in STEPS.items():
            steps = [step for name in names if LEAST_BUDGETS.get(step := f"{phase}.{name}", 0.0) <= budget]
            if same_text or not set(steps) & set(OF_THE_TEXT):
                taken = [spent for step in steps if (spent := _seconds(markers, step, started)) is not None]
                seconds |= {phase: sum(taken)} if len(taken) == len(steps) else {}
    return seconds


def slowness(done: Mapping[str, float], expected: Mapping[str, float]) -> float:
    """How many times the `expected` seconds of its phases this machine took for the steps that are `done`: what is to
    come will take as many. 1 where it is no more than short phases vary, and before anything can be compared."""
    whole = {phase: [done.get(f"{phase}.{name}", math.nan) for name in STEPS[phase]] for phase in COMPARED}
    taken = {phase: sum(seconds) for phase, seconds in whole.items() if not math.isnan(sum(seconds))}
    ratio = sum(taken.values()) / sum(expected[phase] for phase in taken) if taken else 1.0
    return 1.0 if 1 / NOTICEABLE <= ratio <= NOTICEABLE else ratio


def training_seconds(budget: float, phases: dict[str, float]) -> float:
    """What the other seven phases leave of the budget."""
    return max(LEAST_SHARE * budget, budget * (1 - MARGIN) - sum(phases.values()) - START_SECONDS)


def _fact(markers: MarkerFiles, key: Key[Any], name: str) -> object:
    marker = markers.read(key.step)[0]
    return marker.facts.get(name) if marker else None


def _seconds(markers: MarkerFiles, step: str, started: str) -> float | None:
    marker = markers.read(step)[0]
    if marker and started and marker.started_at[:19] >= started[:19]:  # of this run, which is to be compared
        marker = last_finished(replace(marker, state=STARTED))
    return marker.seconds if marker and marker.state == FINISHED and not marker.left_out else None
