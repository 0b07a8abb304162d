"""SIGINT (Ctrl-C), SIGTERM and SIGHUP in every phase: what is under way is saved, the next start continues with it."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bench.faults.kinds.processes import TRIES, training
from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.injection import injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.moments import LOOK_SECONDS, SIGHT_SECONDS, marker_of, still_finished
from bench.faults.stage.process import Process
from bench.faults.stage.scene import NO_CLOCK, Scene
from bench.faults.stage.templates import HALF, MODEL, SLOW_SECONDS
from flows.context.command_words import PHASES
from nanogpt import durable

STOPPED = 130
STOPPED_AT = HALF + 1  # no multiple of the checkpoints' interval: who saves there was asked to
SLOW_STEP = STOPPED_AT + 1  # dropped by who stops in it
NINE_STARTS = 900.0  # seconds of patience
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GAPS = (0.0, 0.05, 0.3)  # seconds between one Ctrl-C and the next
# A step of each phase that can be met in it.
MET_IN = {
    "environment": "environment.device", "implementation": "implementation.checks",
    "configuration": "configuration.measure", "dataset": "dataset.clean", "training": f"training.{MODEL}",
    "evaluation": "evaluation.models", "deployment": "deployment.examples", "documentation": "documentation.figures",
}  # fmt: skip


def in_every_phase(*numbers: signal.Signals) -> Callable[[Scene], Finding]:
    """A run from nothing gets a signal in each phase, `numbers` in turn, and is started again each time."""

    def inflict(scene: Scene) -> Finding:
        met: list[str] = []
        kept: dict[str, str] = {}
        slowest = 0.0
        phases = PHASES[1::2] if scene.small else PHASES
        for phase, number in zip(phases, itertools.cycle(numbers), strict=False):
            process = scene.start("--on-hangup", "save", *NO_CLOCK)
            if not _comes_to(scene, process, phase):
                raise NotSurvived(f"ended before {phase}: {process.output[-1500:]}")
            slowest = max(slowest, _stopped_by(scene, process, number))
            met.append(_phase_under_way(scene))
            kept = still_finished(scene, kept)
        scene.run(*NO_CLOCK)
        still_finished(scene, kept)
        result = f"{slowest:.1f} s at most to the end"
        return Finding(f"{_stopped(scene)} (in {', '.join(met)})", "saved; the same command", result, times=len(met))

    inflict.__doc__ = (
        f"{_names(numbers)} in each of the eight phases of a run from nothing, with --on-hangup save; every second "
        "phase in the small form."
    )
    return inflict


def hangup_in_every_phase(scene: Scene) -> Finding:
    """SIGHUP in each of the eight phases of a run from nothing, with --on-hangup continue."""
    process = scene.start(*NO_CLOCK)
    for phase in PHASES:
        if not _comes_to(scene, process, phase):
            raise NotSurvived(f"ended before {phase}: {process.output[-1500:]}")
        process.send(signal.SIGHUP)
    scene.results.append(process.wait())
    return Finding(scene.noticed("hangup: the terminal was closed"), "continues without it", times=len(PHASES))


def ctrl_c_while_training(scene: Scene) -> Finding:
    """Ctrl-C while it trains."""
    process = training(scene)
    _stopped_by(scene, process, signal.SIGINT)
    noticed = scene.noticed("Stopped. What was done is kept; continue with")
    scene.run()
    if lost := scene.steps_lost():
        raise NotSurvived(f"{lost} steps lost, though it was asked to save")
    return Finding(noticed, "the trainer saves and ends; the same command")


def ctrl_c_twice(scene: Scene) -> Finding:
    """Ctrl-C twice while it trains, as fast as can be, then 50 and 300 ms after each other."""
    for gap in GAPS:
        process = training(scene)
        process.interrupt()
        scene.let_pass(gap)
        _stopped_by(scene, process, signal.SIGINT)
    scene.run()
    return Finding(_stopped(scene), "ends without waiting; the last checkpoint", times=len(GAPS))


def killed_while_stopping(scene: Scene) -> Finding:
    """Ctrl-C while it trains, and kill -9 of all in the middle of the checkpoint that it then saves."""
    for _ in range(TRIES):
        if _killed_in_the_save(scene):
            break
        scene.again()
    else:
        raise NotSurvived(f"not inflicted: in {TRIES} tries no kill met the checkpoint of step {STOPPED_AT}")
    scene.run()
    noticed = scene.noticed(rf"training.{MODEL}: started .interrupted at")
    if scene.events("resumed")[-1]["step"] != HALF:
        raise NotSurvived(f"{scene.events('resumed')[-1]['message']}, not at {HALF}")
    return Finding(noticed, "half a checkpoint does not count: resumed from the one before", times=2)


def _killed_in_the_save(scene: Scene) -> bool:
    """Ctrl-C in a step that takes long, kill -9 when the checkpoint after it is seen; whether it was not whole yet."""
    slow = {"what": "hang", "how": "asleep", "seconds": SLOW_SECONDS, "at": "step", "step": SLOW_STEP}
    process = scene.start(env=injecting(slow))
    process.wait_for(lambda: scene.last_step() == STOPPED_AT, f"step {SLOW_STEP}")
    trainer = process.living_trainer()
    process.interrupt()
    until = time.monotonic() + SIGHT_SECONDS
    while not (half := _half_saved(scene)) and process.is_running and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    trainer.kill()
    process.send(signal.SIGSTOP)  # it takes no note while the others are looked for
    process.kill("all")
    scene.results.append(process.wait())
    return bool(half) and half == _half_saved(scene) and marker_of(scene, f"training.{MODEL}")[0] == "started"


def _half_saved(scene: Scene) -> list[Path]:
    return list(scene.checkpoints.glob(f".step-{STOPPED_AT:08d}.tmp"))


def _comes_to(scene: Scene, process: Process, phase: str) -> bool:
    """Wait until the phase has begun; False when the run ends before."""
    step = MET_IN[phase]
    before = marker_of(scene, step)
    scene.wait_until(lambda: marker_of(scene, step) != before or not process.is_running, f"{phase} to begin")
    return process.is_running


def _stopped_by(scene: Scene, process: Process, number: signal.Signals) -> float:
    """Send the signal and see that it ends as it should; the seconds that it took."""
    began = time.monotonic()
    process.send(number)
    result = process.wait()
    seconds = time.monotonic() - began
    scene.results.append(result)
    if result.code != STOPPED:
        raise NotSurvived(f"{number.name}: exit code {result.code}, not {STOPPED}: {result.output[-1500:]}")
    if (state := durable.read_json(scene.state / "session.json")["state"]) != "stopped":
        raise NotSurvived(f"{number.name}: the session is {state}, not stopped")
    scene.wait_until(lambda: not scene.left_over(), "the end of all that it had started")
    return seconds


def _phase_under_way(scene: Scene) -> str:
    phases = durable.read_json(scene.state / "session.json")["phases"]
    return next((phase["title"].lower() for phase in phases if phase["status"] == "running"), "between phases")


def _stopped(scene: Scene) -> str:
    return scene.noticed("stopped by a person")


def _names(numbers: tuple[signal.Signals, ...]) -> str:
    return " or ".join(number.name for number in numbers)


KINDS = [
    Kind("Ctrl-C while it trains", "processes", ctrl_c_while_training, small=False),
    Kind("Ctrl-C twice while it trains", "processes", ctrl_c_twice, small=False),
    Kind("Ctrl-C, then kill -9", "processes", killed_while_stopping, small=False),
    Kind("SIGINT, SIGTERM and SIGHUP in turn, in every phase", "processes", in_every_phase(*SIGNALS), template="fresh",
         seconds=NINE_STARTS),
    *(
        Kind(f"{number.name} in every phase", "processes", in_every_phase(number), small=False, template="fresh",
             seconds=NINE_STARTS)
        for number in SIGNALS
    ),
    Kind("SIGHUP in every phase, gone on without", "processes", hangup_in_every_phase, small=False, template="fresh",
         seconds=NINE_STARTS),
]  # fmt: skip
