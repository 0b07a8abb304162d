"""What orchestration costs: a real run with pages and milestones, against the same work called by hand.

Two things are counted, and their sum is given as a share of the run, from the start of the command to its end:

- seconds in which no work of a step is done: the start (Python, Prefect, its server, the look at what is kept), between
  steps (decisions, digests, markers, commits, pages), and the end. Of a training step, only what its process lives is
  work, for that is what `nanogpt train` takes by hand; all else of the step (noticing its end, plot, card) is counted.
  The work of other steps is taken whole: a worker's start stands for that of the command by hand.
- seconds of processor time that orchestrator and Prefect's server take while the trainer computes, divided by the
  number of cores: the share of the machine that the trainer cannot have. Where it computes on all cores and each of
  its threads has to wait for the slowest, it may lose as much as all of that time: that share is given as well.

What both take before the first training (the server starts while the first steps work, and those that work within the
orchestrator count too) is in a share of its own.

Times of steps are those of the action log (ms), the life of a trainer is the system's (10 ms), and processor times are
looked at from outside, every 0.2 s.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from bench.faults.stage.campaign import Campaign
from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.process import Patience, Process, free_port, is_server, is_trainer
from bench.faults.stage.templates import shared_data
from flows.context.command_words import seconds_of
from flows.context.paths import CHECKOUT
from nanogpt.machine import cores

LIMIT = 0.01
LOOK_SECONDS = 0.2
PATIENCE = 900.0  # seconds beyond the budget
STEP_LINE = re.compile(r"^(\S+ \S+) \w+ +([a-z]+\.\S+): (started|finished) ", re.MULTILINE)

ORCHESTRATOR, SERVER = "the orchestrator", "Prefect's server"

Interval = tuple[float, float]  # seconds since the epoch


@dataclass
class Trainer:
    """The life of a training's process, and what others took of the processor meanwhile."""

    began: float
    ended: float
    before: dict[str, float]
    after: dict[str, float] = field(default_factory=dict)


def overhead(campaign: Campaign, budget: str) -> dict[str, Any]:
    """The figures of docs/faults.md. Raises NotSurvived when the run fails."""
    campaign.tell(f"a run of {budget} with pages: what its orchestration costs")
    folder = campaign.templates.folder / "overhead"
    shutil.rmtree(folder, ignore_errors=True)
    checkout, workspace = folder / "checkout", folder / "workspace"
    _copy_of_checkout(checkout)
    workspace.mkdir()
    try:
        began = time.time()
        trainers = _watched(_start(checkout, workspace, budget, campaign))
        ended = time.time()
        log = (workspace / "logs/default/automation_log.txt").read_text(encoding="utf-8")
    finally:
        stop = [sys.executable, "-m", "flows.prefect_server", "stop", str(workspace / "state/.prefect")]
        subprocess.run(stop, cwd=checkout, check=False, capture_output=True, timeout=120)
    figures = costs((began, ended), steps_in(log), trainers)
    shutil.rmtree(folder)
    return {"budget": budget, **figures}


def costs(run: Interval, steps: dict[str, Interval], trainers: list[Trainer]) -> dict[str, Any]:
    """Orchestration's share of `run`, and of what it is made up."""
    training = {name: interval for name, interval in steps.items() if name.startswith("training.")}
    others = [interval for name, interval in steps.items() if name not in training]
    lives = [(trainer.began, trainer.ended) for trainer in trainers]
    whole = run[1] - run[0]
    start = min(began for began, _ in steps.values()) - run[0]
    end = run[1] - max(ended for _, ended in steps.values())
    around = covered([*training.values(), *others]) - covered([*lives, *others])
    outside = whole - covered([*lives, *others])
    processor = {
        whose: sum(trainer.after[whose] - trainer.before[whose] for trainer in trainers)
        for whose in (ORCHESTRATOR, SERVER)
    }
    taken = sum(processor.values())
    before = max(0.0, sum(trainers[0].before.values()) - start) if trainers else 0.0
    return {
        "run, seconds": round(whole, 1),
        "start, seconds": round(start, 2), "end, seconds": round(end, 2),
        "between steps, seconds": round(outside - start - end - around, 2),
        "training steps without their process, seconds": round(around, 2),
        **{f"processor time of {whose} in training, seconds": round(used, 2) for whose, used in processor.items()},
        "orchestration, % of the run": round(100 * (outside + taken / cores()) / whole, 2),
        "the same, with their processor time before the first training, %": round(
            100 * (outside + (taken + before) / cores()) / whole, 2
        ),
        "the same, if the trainer lost all of that processor time, %": round(100 * (outside + taken) / whole, 2),
        "aim, % of the run": 100 * LIMIT,
    }  # fmt: skip


def steps_in(log: str) -> dict[str, Interval]:
    """When each step of an action log was at work."""
    began: dict[str, float] = {}
    steps: dict[str, Interval] = {}
    for moment, name, what in STEP_LINE.findall(log):
        seconds = datetime.fromisoformat(moment).timestamp()
        if what == "started":
            began[name] = seconds
        elif name in began:
            steps[name] = (began[name], seconds)
    return steps


def covered(intervals: Iterable[Interval]) -> float:
    """Seconds in at least one of the intervals."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(intervals):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def _copy_of_checkout(checkout: Path) -> None:
    """The work tree in a repository of its own, for a run's commits are no business of the person's."""
    listed = _git(CHECKOUT, "ls-files", "-coz", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (CHECKOUT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, checkout / name)
    _git(checkout, "init", "-q")
    _git(checkout, "add", "-A")
    _git(checkout, "commit", "-qm", "as it is")


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    try:
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotSurvived(f"without a git checkout there are no milestones to measure: {error}") from error
    return done.stdout


def _start(checkout: Path, workspace: Path, budget: str, campaign: Campaign) -> Process:
    """The command as a person types it, but for port, workspace, a copy of the text, and the project's own tests: a
    failure among them is no cost of a run."""
    command = [sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--budget", budget, "--workspace",
               str(workspace), "--set", f"port={free_port()}", "--set", "tests=false"]  # fmt: skip
    mirror = shared_data()
    command += ["--set", f"data.mirror={mirror}"] if mirror else ["--data", "embedded"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "NO_COLOR": "1"}
    patience = Patience(seconds_of(budget) + PATIENCE, campaign.interrupted)
    return Process(command, environment, workspace.with_suffix(".out"), patience, cwd=checkout)


def _watched(process: Process) -> list[Trainer]:
    """The trainers of a run, watched until its end. Raises NotSurvived when it fails."""
    trainers: dict[int, Trainer] = {}
    server: psutil.Process | None = None
    while process.is_running:
        children = process.children()
        server = server or next(filter(is_server, children), None)
        now, taken = time.time(), {ORCHESTRATOR: _processor_seconds(psutil.Process(process.pid)), SERVER: 0.0}
        if server is not None:
            taken[SERVER] = _processor_seconds(server)
        for trainer in filter(is_trainer, children):
            if trainer.pid not in trainers:
                trainers[trainer.pid] = Trainer(_began_at(trainer, now), now, taken)
                threading.Thread(target=_note_end, args=(trainer, trainers[trainer.pid]), daemon=True).start()
            trainers[trainer.pid].after = taken
        time.sleep(LOOK_SECONDS)
    if (result := process.wait()).code != 0:
        raise NotSurvived(f"exit code {result.code}: {result.output[-1500:]}")
    return list(trainers.values())


def _began_at(process: psutil.Process, seen: float) -> float:
    """When a process was started that was `seen` first at that moment. psutil knows it by the moment of the machine's
    boot, which Linux gives in whole seconds."""
    try:
        ticks = int(Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # it is gone already, or no Linux
        return seen


def _note_end(process: psutil.Process, life: Trainer) -> None:
    """Wait for the end of a trainer: seen at the next look, up to 0.2 s of its life would count as orchestration."""
    process.wait()
    life.ended = time.time()


def _processor_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system
