"""Killed again and again: kill -9 at random moments of whole runs, the same command each time, until they are whole.

A run's kills are planned in its own order, each within a step of its ledger, with whom to kill. Most moments are
anywhere in the step, as likely as it takes long, training more; the others are in the short windows that matter: a
marker or a checkpoint is being written, has just been renamed, an outcome is there and no marker says so. A window is
milliseconds wide and may be missed: counted is what a kill met, as the files and processes that it left show.
"""

from __future__ import annotations

import random
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from bench.faults.kinds.servers import server_of
from bench.faults.stage.campaign import Campaign
from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.losses import Losses, TwoTrainers
from bench.faults.stage.moments import (
    ANYWHERE,
    AT_THE_END,
    WHILE_IT_TRAINS,
    WRITES_OF_TRAINING,
    Step,
    Strike,
    marker_of,
    moment_comes,
    moments_met,
    started_steps,
    steps_of,
    still_finished,
    windows_of,
)
from bench.faults.stage.process import Process
from bench.faults.stage.scene import NO_CLOCK, Scene
from bench.faults.stage.templates import CHECKPOINT_INTERVAL
from bench.faults.stage.verdict import judge

KILLS_IN_A_RUN = 10
TRAINING = 4  # times as likely as it takes long: there is most to lose
IN_WINDOWS = 0.4  # of the kills
WITH_PAGES = 5  # every fifth run, from the second on, has pages, and its server is killed too
SECONDS_FOR_A_RUN = 1200.0
TRAINER_SECONDS = 0.5  # between two looks for a trainer; one takes 5 ms, and a trainer seconds until it writes
OF_PROCESS = re.compile(r"\.(\d+)\.tmp$")  # a temporary file's writer; without a number it is the trainer


@dataclass(frozen=True)
class Kill:
    """Whom, in which step, at which moment of it."""

    step: Step
    moment: str
    whom: str  # orchestrator, trainer, both, all, server, server and all


@dataclass
class Story:
    """What became of one run."""

    kills: list[Kill] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)  # in which they were
    met: list[list[tuple[str, str]]] = field(default_factory=list)  # by each: see moments_met()
    in_a_write: int = 0  # kills that cut off a write, as its temporary file or folder shows
    steps_lost: list[int] = field(default_factory=list)  # of each kill of a training
    seconds_to_training: list[float] = field(default_factory=list)
    seconds_more: float = 0.0  # than the uninterrupted run
    orphan_seconds: float = 0.0


def kill_series(campaign: Campaign, kills: int, jobs: int, seed: int | None = None) -> dict[str, Any]:
    """The figures of so many kills, in as many runs as it takes, for docs/faults.md. `survived` is False with `why`."""
    seed = random.randrange(10**6) if seed is None else seed
    dice, stories = random.Random(seed), list[Story]()
    campaign.tell(f"{kills} kills at random moments (seed {seed})")
    try:
        while (missing := kills - sum(len(story.kills) for story in stories)) > 0:
            stories += _runs(campaign, len(stories), missing, jobs, dice)
    except NotSurvived as error:
        campaign.tell(f"        LOST  {error}")
        return {"survived": False, "seed": seed, "why": str(error)}
    return {"survived": True, "kills": sum(len(story.kills) for story in stories), **_figures(stories, seed, jobs)}


def _runs(campaign: Campaign, number: int, kills: int, jobs: int, dice: random.Random) -> list[Story]:
    """As many runs as `kills` need if none of them ends before its last kill."""

    def work(number: int, kills: int, seed: int) -> Story:
        story = one_run(campaign, kills, random.Random(seed), pages=number % WITH_PAGES == 1)
        campaign.tell(f"        run {number + 1}: killed {len(story.kills)} times, {max(story.steps_lost, default=0)} "
                      f"steps lost at most, {story.seconds_more:.0f} s more than undisturbed")  # fmt: skip
        return story

    with ThreadPoolExecutor(jobs) as threads:
        parts = [min(KILLS_IN_A_RUN, kills - begun) for begun in range(0, kills, KILLS_IN_A_RUN)]
        runs = [threads.submit(work, number + n, part, dice.getrandbits(32)) for n, part in enumerate(parts)]
        try:
            return [run.result() for run in runs]
        except NotSurvived:
            threads.shutdown(cancel_futures=True)
            raise
        except BaseException:
            campaign.interrupted.set()
            threads.shutdown(cancel_futures=True)
            raise


def one_run(campaign: Campaign, kills: int, dice: random.Random, pages: bool) -> Story:
    """A run from nothing, killed so often, or less when it finishes before, and started again until it finishes."""
    with campaign.scene("fresh", "killed again and again", SECONDS_FOR_A_RUN) as scene, TwoTrainers(scene) as trainers:
        steps = steps_of(campaign.templates)
        run = KilledRun(scene, steps, dice, pages)
        for kill in planned(steps, kills, dice, pages):
            if not run.suffer(kill):
                break
        run.finish()
        judge(scene, exact=True)
        trainers.check()
        if pages:
            scene.wait_until(lambda: server_of(scene) is not None, "pages at the end of the run")
        run.story.seconds_more, run.story.orphan_seconds = scene.seconds_lost(), trainers.orphan_seconds
    return run.story


def planned(steps: list[Step], kills: int, dice: random.Random, pages: bool) -> list[Kill]:
    """So many kills in the order of the run: in a step, those at its end are the last."""
    likely = [max(step.seconds, 0.3) * (TRAINING if step.phase == "training" else 1) for step in steps]
    chosen = [_kill(step, dice, pages) for step in dice.choices(steps, likely, k=kills)]

    def place(kill: Kill) -> tuple[int, int]:
        return steps.index(kill.step), AT_THE_END.index(kill.moment) if kill.moment in AT_THE_END else -1

    return sorted(chosen, key=place)


def _kill(step: Step, dice: random.Random, pages: bool) -> Kill:
    whom = ["orchestrator", "orchestrator", "all"]
    if step.phase == "training":
        whom += ["both", "both", "trainer", "trainer"]
    if pages:
        whom += ["server", "server and all"]
    usual = dice.choice([ANYWHERE, WHILE_IT_TRAINS, WHILE_IT_TRAINS]) if step.phase == "training" else ANYWHERE
    moment = dice.choice(windows_of(step)) if dice.random() < IN_WINDOWS else usual
    if moment in WRITES_OF_TRAINING:
        whom = ["both", "trainer", "all"]  # nobody else's end cuts off what the trainer writes
    return Kill(step, moment, dice.choice(whom))


class KilledRun:
    """A run that is killed and started again, and what is seen of it."""

    def __init__(self, scene: Scene, steps: list[Step], dice: random.Random, pages: bool):
        self.story, self.scene, self.steps, self.dice, self.pages = Story(), scene, steps, dice, pages
        self.losses = Losses(scene)
        self.story.steps_lost, self.story.seconds_to_training = self.losses.steps, self.losses.seconds
        self.kept: dict[str, str] = {}
        self.litter: set[tuple[Path, int]] = set()  # temporary files at the kill before, with the time of their inode
        self.trainer: psutil.Process | None = None
        self.next_look = 0.0
        self.process = self.start()

    def start(self) -> Process:
        self.at_start = {step.name: marker_of(self.scene, step.name) for step in self.steps}
        self.started = time.time()
        return self.scene.start(*NO_CLOCK, ui=self.pages)

    def look(self) -> None:
        """Notice that it trains again, and who trains: in a short window there is no time to look for it."""
        self.losses.look()
        if not _lives(self.trainer) and time.monotonic() > self.next_look:
            self.trainer, self.next_look = self.process.trainer, time.monotonic() + TRAINER_SECONDS

    def suffer(self, kill: Kill) -> bool:
        """Wait for the moment, kill, start again; False when the run ends before."""
        before = self.at_start[kill.step.name]
        if not moment_comes(self.scene, self.process, kill.step, kill.moment, self.dice, self.look, before):
            return False
        trainer = self.trainer if _lives(self.trainer) else None
        server = server_of(self.scene) if "server" in kill.whom else None
        whom = _whom(kill, trainer, server)
        struck, killed = _inflict(self.process, trainer, server, whom)
        cut_off = self._cut_off(killed, trainer is not None and trainer.pid in killed)
        met = moments_met(self.scene, self.steps, Strike(struck, self.started, trainer is not None, cut_off))
        under_way = started_steps(self.scene)
        self.losses.killed(any(name.startswith("training.") for name in under_way) and whom != "server")
        self.kept = still_finished(self.scene, self.kept)
        self.story.kills.append(replace(kill, whom=whom))
        self.story.met.append(met)
        self.story.phases.append(under_way[0].split(".")[0] if under_way else "none (starting, or between steps)")
        self.story.in_a_write += bool(cut_off)
        if whom not in ("trainer", "server"):
            self.scene.results.append(self.process.wait())
            self.process = self.start()
        return True

    def _cut_off(self, killed: set[int], trainer: bool) -> frozenset[Path]:
        """The new temporary files and folders of those who were killed, the trainer perhaps among them."""
        there = {(path, path.stat().st_ctime_ns) for path in self.scene.workspace.rglob(".*.tmp") if path.exists()}
        writers = {path: OF_PROCESS.search(path.name) for path, _ in there - self.litter}
        self.litter = there
        return frozenset(path for path, of in writers.items() if (int(of[1]) in killed if of else trainer))

    def finish(self) -> None:
        """Wait for the end of the last start, and look at what was lost."""

        def ended() -> bool:
            self.losses.look()
            return not self.process.is_running

        self.scene.wait_until(ended, "the end of the run")
        self.scene.results.append(self.process.wait())
        self.losses.count()
        self.kept = still_finished(self.scene, self.kept)
        if (most := max(self.losses.steps, default=0)) > CHECKPOINT_INTERVAL:
            raise NotSurvived(f"{most} steps lost with one kill; checkpoints are {CHECKPOINT_INTERVAL} apart")


def _whom(kill: Kill, trainer: psutil.Process | None, server: psutil.Process | None) -> str:
    """Whom to kill of those who live."""
    if (kill.whom == "trainer" and trainer is None) or (kill.whom == "server" and server is None):
        return "orchestrator"
    return "all" if kill.whom == "server and all" and server is None else kill.whom


def _inflict(
    process: Process, trainer: psutil.Process | None, server: psutil.Process | None, whom: str
) -> tuple[float, set[int]]:
    """kill -9 of `whom`: when (seconds since the epoch), and the processes of the run that it ended.

    Who writes goes first. While the others are looked for, the orchestrator stands still and writes nothing.
    """
    killed: set[int] = set()
    if whom not in ("orchestrator", "server"):
        if trainer is not None:
            trainer.kill()
            killed.add(trainer.pid)
        if whom != "trainer":
            process.send(signal.SIGSTOP)
    struck = time.time()
    if whom in ("all", "server and all"):
        killed |= {child.pid for child in process.children()}
    if whom not in ("server", "trainer"):
        process.kill(whom.removeprefix("server and "))
        killed.add(process.pid)
    if server is not None:
        server.kill()
    return struck, killed


def _lives(process: psutil.Process | None) -> bool:
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _figures(stories: list[Story], seed: int, jobs: int) -> dict[str, Any]:
    kills = [kill for story in stories for kill in story.kills]
    met = [met for story in stories for met in story.met]
    steps = [lost for story in stories for lost in story.steps_lost]
    seconds = [taken for story in stories for taken in story.seconds_to_training]
    more = sum(story.seconds_more for story in stories)
    return {
        "runs": len(stories), "seed": seed, "runs at a time": jobs,
        "whom": _counted(kill.whom for kill in kills),
        "in which phase": _counted(phase for story in stories for phase in story.phases),
        "at which moments, as met": _counted(moments[0][1] for moments in met),
        "planned moments that were met": _as_planned(kills, met),
        "kills while something was being written": sum(story.in_a_write for story in stories),
        "final weights": f"the uninterrupted run's to the byte, {len(stories)} times",
        "else it counts as not survived": "a step of the ledger is done twice (but for a report that has to mention a "
                                          "kill), a training step in two rows or none, two trainers are at work "
                                          "in one folder, a process is left",
        "kills of a training": len(steps),
        "training steps lost with a kill, most": max(steps, default=0),
        "training steps lost with a kill, median": statistics.median(steps) if steps else 0,
        "training steps between checkpoints": CHECKPOINT_INTERVAL,
        "seconds from the restart to training again, median": round(statistics.median(seconds), 1) if seconds else None,
        "seconds from the restart to training again, worst": round(max(seconds), 1) if seconds else None,
        "seconds that a trainer outlived its orchestrator, worst": round(max(s.orphan_seconds for s in stories), 1),
        "seconds more than undisturbed, all kills": round(more, 1),
        "seconds more than undisturbed, each kill": round(more / max(1, len(kills)), 1),
    }  # fmt: skip


def _as_planned(kills: list[Kill], met: list[list[tuple[str, str]]]) -> str:
    """How many of the kills that were planned for a moment of a step struck in it."""
    planned = Counter(kill.moment for kill in kills)
    struck = Counter(kill.moment for kill, moments in zip(kills, met, strict=True)
                     if (kill.step.name, kill.moment) in moments)  # fmt: skip
    return ", ".join(f"{moment} {struck[moment]} of {count}" for moment, count in planned.most_common())


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in Counter(words).most_common())
