"""Processes that are killed, stopped for a while, orphaned, or in one another's way."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from bench.faults.stage import injection
from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.injection import INJECTED, PR_SET_PDEATHSIG, injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.losses import TwoTrainers, trains_since
from bench.faults.stage.moments import marker_of, outcome_without_marker
from bench.faults.stage.process import Process, is_trainer, is_worker, marked
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import CHECKPOINT_INTERVAL, MODEL, STEPS, Row
from flows.context.paths import CHECKOUT
from nanogpt import durable

TRAINING = f"training.{MODEL}"
STOPPED_SECONDS = 3.0
FEW_STEPS = 5
DAY = 86400.0
TRIES = 3
NO_DEATH_SIGNAL = PR_SET_PDEATHSIG.replaced_by(9999)  # prctl() refuses: an operating system without that signal
SHIFTED_CLOCK = INJECTED / "shifted_clock"


def trainer_killed(scene: Scene) -> Finding:
    """kill -9 of the trainer while it trains."""
    process = training(scene)
    process.kill("trainer")
    scene.results.append(process.wait())
    row = scene.remedy("killed")
    _at_most_one_interval(scene)
    return Finding(f"{row['symptom']}: {row['evidence']}", row["remedy"])


def trainer_killed_at_its_start(scene: Scene) -> Finding:
    """kill -9 of the first trainer of a model, before it has made the model's folder."""
    shutil.rmtree(scene.model)
    scene.begin()
    process = scene.start()
    process.wait_for(lambda: process.trainer, "the trainer")
    process.kill("trainer")
    if scene.model.exists():
        raise NotSurvived("not inflicted: the model's folder is there already")
    scene.results.append(process.wait())
    row = scene.remedy("killed")
    return Finding(f"{row['symptom']}: {row['evidence']}", row["remedy"])


def orchestrator_killed(scene: Scene) -> Finding:
    """kill -9 of the orchestrator while it trains: the kernel signals its trainer, which saves and ends."""
    return _orphaned(scene, {})


def orchestrator_killed_without_death_signal(scene: Scene) -> Finding:
    """kill -9 of the orchestrator where the kernel does not signal the trainer, as on macOS: it notices by itself."""
    return _orphaned(scene, injecting(NO_DEATH_SIGNAL))


def both_killed(scene: Scene) -> Finding:
    """kill -9 of orchestrator and trainer at the same time."""
    process = training(scene)
    process.kill("both")
    scene.results.append(process.wait())
    scene.run()
    _at_most_one_interval(scene)
    return Finding(scene.noticed("started .interrupted at"), "the same command continues from the last checkpoint")


def killed_before_the_marker(scene: Scene) -> Finding:
    """kill -9 of all between the trainer's outcome and the marker that says so."""
    process = training(scene)
    process.wait_for(lambda: outcome_without_marker(scene, TRAINING), "the outcome")
    process.send(signal.SIGSTOP)  # it writes no marker while the others are looked for
    process.kill("all")
    scene.results.append(process.wait())
    if not outcome_without_marker(scene, TRAINING):
        raise NotSurvived(f"not inflicted: the marker says {marker_of(scene, TRAINING)[0]} already")
    scene.run()
    noticed = scene.noticed(rf"{TRAINING}: started .interrupted at")
    resumed = scene.events("resumed")[-1]["step"]
    if resumed != STEPS:
        raise NotSurvived(f"the trainer continued from step {resumed}, though all {STEPS} were done")
    return Finding(noticed, "the trainer ends once more, without a step")


def worker_killed(scene: Scene) -> Finding:
    """kill -9 of the worker that proves the model's parts, and again of the one that judges the trained model."""
    process = scene.start("--redo", "implementation.checks", "--redo", "evaluation.models")
    for step in ("implementation.checks", "evaluation.models"):
        _kill_worker_in(scene, process, step)
    scene.results.append(process.wait())
    rows = [scene.remedy(rf"\b{phase}\b", "killed", "ended by SIGKILL") for phase in ("implementation", "evaluation")]
    return Finding(f"{rows[0]['symptom']}: {rows[0]['evidence']}", rows[0]["remedy"], times=2)


def measuring_worker_killed(scene: Scene) -> Finding:
    """The worker that measures speed gets SIGSEGV, and its successor SIGBUS; the training begins anew with what was
    measured after all."""
    strikes = (("SIGSEGV", injection.REHEARSE), ("SIGBUS", injection.REHEARSE))
    return _struck(scene, "configuration", strikes, "--redo", "configuration.measure", "--redo", TRAINING)


def judging_worker_killed(scene: Scene) -> Finding:
    """The worker that judges the trained model gets SIGTERM, and its successor SIGSEGV."""
    strikes = (("SIGTERM", injection.SUMMARISE), ("SIGSEGV", injection.SUMMARISE))
    return _struck(scene, "evaluation", strikes, "--redo", "evaluation.models")


def _struck(scene: Scene, phase: str, strikes: Sequence[tuple[str, str]], *arguments: str) -> Finding:
    """The workers of a phase get these signals (signal, call), one each, in a run with `arguments`."""
    faults = [
        {"what": "signal", "signal": name, "process": "worker", "at": "call", "target": target,
         "counter": f"{scene.workspace}.{name}"}
        for name, target in strikes
    ]  # fmt: skip
    scene.run(*arguments, env=injecting(*faults))
    rows = [row for row in scene.remedies() if row["step"] == phase]
    evidence = [row["evidence"] for row in rows]
    if any(row["symptom"] not in ("killed", "aborted") for row in rows) or len(rows) != len(strikes):
        raise NotSurvived(f"{[name for name, _ in strikes]} are taken for {rows}")
    if missing := [name for (name, _), words in zip(strikes, evidence, strict=True) if name not in words]:
        raise NotSurvived(f"{missing} are not named: {evidence}")
    return Finding(f"{rows[0]['symptom']}: {evidence[0]}", rows[0]["remedy"], times=len(strikes))


def two_starts(scene: Scene) -> Finding:
    """The command is started a second time while it trains, by a link to the same workspace; both times from another
    folder than that in which the run was begun."""
    link = scene.workspace.with_name(f"{scene.workspace.name}.link")
    link.symlink_to(scene.workspace)
    process = training(scene, cwd=scene.workspace)
    second = scene.run("--workspace", str(link), code=2, cwd=scene.workspace)
    link.unlink()
    if not re.search(rf"process {process.pid}\b", second.output):
        raise NotSurvived(f"the second start says {second.output}")
    scene.results.append(process.wait())
    return Finding(
        second.output.strip().splitlines()[-1], "the second start ends with exit code 2, the first continues"
    )


def stale_holder(scene: Scene) -> Finding:
    """A killed run leaves its lock, and the note of its holder names a process that is another program by now."""
    process = training(scene)
    process.kill("all")
    scene.results.append(process.wait())
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        note = durable.read_json(scene.state / "holder.json")
        durable.write_json(scene.state / "holder.json", {**note, "pid": sleeper.pid})
        try:
            scene.run()
        finally:
            sleeper.kill()
    return Finding(scene.noticed("started .interrupted at"), "the lock ended with its holder")


def from_another_folder(scene: Scene) -> Finding:
    """The command continues from another folder than the one in which it was begun."""
    scene.run(cwd=scene.workspace)
    return Finding(scene.noticed("started .(failed|interrupted) at"), "the same workspace, whatever the folder")


def paused(scene: Scene) -> Finding:
    """SIGSTOP of the orchestrator while its trainer continues, SIGCONT three seconds later."""
    process = training(scene)
    process.send(signal.SIGSTOP)
    scene.let_pass(STOPPED_SECONDS)
    process.send(signal.SIGCONT)
    scene.results.append(process.wait())
    return Finding(
        "nothing: the trainer needs nobody to continue", "looks again at what the trainer has done meanwhile"
    )


def calendar_set(scene: Scene) -> Finding:
    """The calendar is set a day ahead while it trains, and two days back in its cool-down, for every process."""
    for _ in range(TRIES):
        if (jumps := _calendar_jumps(scene)) == [1, -2]:
            break
        scene.again()  # it trained too fast for whoever sets the calendar
    else:
        raise NotSurvived(f"not inflicted: the training's own rows show jumps by {jumps} days, not by [1, -2]")
    spent = durable.read_json(scene.state / "clock.json")["spent_seconds"]
    if not 0 < spent < 3600:
        raise NotSurvived(f"{spent} s of the budget are spent")
    noticed = f"start, cool-down and end are {jumps[0]:+} and {jumps[1]:+} days apart; {spent} s of the budget spent"
    return Finding(noticed, "time is read from clocks that nobody can set", times=2)


def _calendar_jumps(scene: Scene) -> list[int]:
    """A whole training, which notes the time of its start, cool-down and end, while the calendar is set: days_between()
    these."""
    shift = scene.workspace / "shift"
    shift.write_text("0")
    shutil.rmtree(scene.model)
    scene.begin()
    process = scene.start(env={"PYTHONPATH": f"{SHIFTED_CLOCK}{os.pathsep}{CHECKOUT}", "CLOCK_SHIFT": str(shift)})
    for met, seconds in (("started", DAY), ("cool-down", -DAY)):
        process.wait_for(partial(scene.events, met), f"the event {met}")
        durable.write_text(shift, str(seconds))
    scene.results.append(process.wait())
    return days_between(scene.events())


def days_between(events: list[Row]) -> list[int]:
    """Whole days from the start of a training to its cool-down, and from there to its end, by its rows."""
    times = [[row["time"] for row in events if row["event"] == name] for name in ("started", "cool-down", "finished")]
    if not all(times):
        return []
    return [round((after[-1] - before[-1]) / DAY) for before, after in itertools.pairwise(times)]


def training(scene: Scene, env: Mapping[str, str] | None = None, cwd: Path = CHECKOUT) -> Process:
    """The command, started, in the moment in which it has trained for a few steps."""
    now, before = time.time(), scene.last_step()
    process = scene.start(env=env, cwd=cwd)
    process.wait_for(lambda: trains_since(scene, now) and scene.last_step() >= before + FEW_STEPS, "some steps")
    return process


def _orphaned(scene: Scene, env: Mapping[str, str]) -> Finding:
    with TwoTrainers(scene) as trainers:
        process = training(scene, env)
        process.kill()
        scene.results.append(process.wait())
        scene.run(env=env)
        scene.wait_until(lambda: not any(map(is_trainer, marked(str(scene.workspace)))), "the end of the trainer")
    trainers.check()
    lived = f"the trainer outlived it by {trainers.orphan_seconds:.1f} s"
    return Finding(scene.noticed("stopped: asked to stop; saved"), "the trainer saves and ends", result=lived)


def _kill_worker_in(scene: Scene, process: Process, step: str) -> None:
    before = marker_of(scene, step)
    process.wait_for(lambda: marker_of(scene, step) != before and _worker_of(process), f"a worker in {step}")
    if worker := _worker_of(process):
        worker.kill()


def _worker_of(process: Process) -> psutil.Process | None:
    return next((child for child in process.children() if is_worker(child)), None)


def _at_most_one_interval(scene: Scene) -> None:
    if (lost := scene.steps_lost()) > CHECKPOINT_INTERVAL:
        raise NotSurvived(f"{lost} steps lost; checkpoints are {CHECKPOINT_INTERVAL} apart")


KINDS = [
    Kind("trainer, kill -9", "processes", trainer_killed, small=False),
    Kind("trainer, kill -9 at its start", "processes", trainer_killed_at_its_start, small=False),
    Kind("orchestrator, kill -9", "processes", orchestrator_killed, small=False),
    Kind("orchestrator, kill -9 without a death signal", "processes", orchestrator_killed_without_death_signal),
    Kind("orchestrator and trainer, kill -9", "processes", both_killed, small=False),
    Kind("all, kill -9 between outcome and marker", "processes", killed_before_the_marker),
    Kind("worker, kill -9", "processes", worker_killed, template="whole", small=False),
    Kind("measuring worker, SIGSEGV and SIGBUS", "processes", measuring_worker_killed, template="whole", small=False),
    Kind("judging worker, SIGTERM and SIGSEGV", "processes", judging_worker_killed, template="whole", small=False),
    Kind("orchestrator, SIGSTOP and SIGCONT", "processes", paused),
    Kind("two starts at once", "processes", two_starts, small=False),
    Kind("lock of a killed run, its holder's number another program's", "processes", stale_holder, small=False),
    Kind("start from another folder", "processes", from_another_folder, small=False),
    Kind("calendar, set ahead and back", "processes", calendar_set),
]
