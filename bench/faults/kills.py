"""Killed again and again: kill -9 at random moments of whole runs, the same command each time, until they are whole.

A run's kills are planned in its own order, each within a step of its ledger, with whom to kill. Most moments are
anywhere in the step, as likely as it takes long, training more; the others are in the short windows that matter: a
marker or a checkpoint is being written, has just been renamed, an outcome is there and no marker says so.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench.faults.campaign import Campaign
from bench.faults.kind import NotSurvived
from bench.faults.losses import Losses, TwoTrainers
from bench.faults.moments import (
    ANYWHERE,
    WHILE_IT_TRAINS,
    Step,
    marker_of,
    moment_comes,
    started_steps,
    steps_of,
    still_finished,
    windows_of,
)
from bench.faults.process import Process
from bench.faults.scene import Scene
from bench.faults.servers import server_of
from bench.faults.template import CHECKPOINT_INTERVAL
from bench.faults.verdict import judge

KILLS_IN_A_RUN = 10
TRAINING = 4  # times as likely as it takes long: there is most to lose
IN_WINDOWS = 0.4  # of the kills
WITH_PAGES = 5  # each so manieth run, from the second on, has pages, and its server is killed too
SECONDS_FOR_A_RUN = 1200.0
NO_CLOCK = ("--budget", "15m")  # steps end the training, not time, however often it is killed


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
    in_a_write: int = 0  # kills when something was being written, as its temporary file or folder shows
    steps_lost: list[int] = field(default_factory=list)  # of each kill of a training
    seconds_to_training: list[float] = field(default_factory=list)
    seconds_more: float = 0.0  # than the uninterrupted run
    orphan_seconds: float = 0.0


def kill_series(campaign: Campaign, kills: int, jobs: int, seed: int | None = None) -> dict:
    """Kill so often, in as many runs as it takes: the figures of docs/faults.md. `survived` is False with `why`."""
    seed = random.randrange(10**6) if seed is None else seed
    dice, stories = random.Random(seed), []
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
    """A run from nothing, killed so often, less when it is whole before, and gone on with until it is whole."""
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
    """So many kills in the order of the run."""
    likely = [max(step.seconds, 0.3) * (TRAINING if step.phase == "training" else 1) for step in steps]
    return [_kill(steps[index], dice, pages) for index in sorted(dice.choices(range(len(steps)), likely, k=kills))]


def _kill(step: Step, dice: random.Random, pages: bool) -> Kill:
    whom = ["orchestrator", "orchestrator", "all"]
    if step.phase == "training":
        whom += ["both", "both", "trainer", "trainer"]
    if pages:
        whom += ["server", "server and all"]
    usual = dice.choice([ANYWHERE, WHILE_IT_TRAINS, WHILE_IT_TRAINS]) if step.phase == "training" else ANYWHERE
    moment = dice.choice(windows_of(step)) if dice.random() < IN_WINDOWS else usual
    return Kill(step, moment, dice.choice(whom))


class KilledRun:
    """A run that is killed and started again, and what is seen of it."""

    def __init__(self, scene: Scene, steps: list[Step], dice: random.Random, pages: bool):
        self.story, self.scene, self.steps, self.dice, self.pages = Story(), scene, steps, dice, pages
        self.losses = Losses(scene)
        self.story.steps_lost, self.story.seconds_to_training = self.losses.steps, self.losses.seconds
        self.kept: dict[str, str] = {}
        self.litter: set[str] = set()  # temporary files of writes that were killed
        self.going = self.start()

    def start(self) -> Process:
        self.at_start = {step.name: marker_of(self.scene, step.name) for step in self.steps}
        return self.scene.start(*NO_CLOCK, ui=self.pages)

    def suffer(self, kill: Kill) -> bool:
        """Wait for the moment, kill, start again; False when the run ends before."""
        before = self.at_start[kill.step.name]
        if not moment_comes(self.scene, self.going, kill.step, kill.moment, self.dice, self.losses.look, before):
            return False
        whom = "orchestrator" if kill.whom == "trainer" and self.going.trainer is None else kill.whom
        _inflict(self.scene, self.going, whom)
        under_way = started_steps(self.scene)
        self.losses.killed(any(name.startswith("training.") for name in under_way) and whom != "server")
        self.kept = still_finished(self.scene, self.kept)
        self.story.kills.append(kill)
        self.story.phases.append(under_way[0].split(".")[0] if under_way else "none (starting, or between steps)")
        temporaries = _temporaries(self.scene)
        self.story.in_a_write += not temporaries <= self.litter
        self.litter |= temporaries
        if whom not in ("trainer", "server"):
            self.scene.results.append(self.going.wait())
            self.going = self.start()
        return True

    def finish(self) -> None:
        """Wait for the end of the last start, and look at what was lost."""

        def ended() -> bool:
            self.losses.look()
            return not self.going.is_running

        self.scene.wait_until(ended, "the end of the run")
        self.scene.results.append(self.going.wait())
        self.losses.count()
        self.kept = still_finished(self.scene, self.kept)
        if (most := max(self.losses.steps, default=0)) > CHECKPOINT_INTERVAL:
            raise NotSurvived(f"{most} steps lost with one kill; checkpoints are {CHECKPOINT_INTERVAL} apart")


def _inflict(scene: Scene, going: Process, whom: str) -> None:
    server = server_of(scene) if "server" in whom else None
    if whom != "server":
        going.kill(whom.removeprefix("server and "))
    if server is not None:
        server.kill()


def _temporaries(scene: Scene) -> set[str]:
    return {str(path) for path in scene.workspace.rglob(".*.tmp")}


def _figures(stories: list[Story], seed: int, jobs: int) -> dict:
    kills = [kill for story in stories for kill in story.kills]
    steps = [lost for story in stories for lost in story.steps_lost]
    seconds = [taken for story in stories for taken in story.seconds_to_training]
    more = sum(story.seconds_more for story in stories)
    return {
        "runs": len(stories), "seed": seed, "runs at a time": jobs,
        "whom": _counted(kill.whom for kill in kills),
        "in which phase": _counted(phase for story in stories for phase in story.phases),
        "at which moments, as planned": _counted(kill.moment for kill in kills),
        "kills while something was being written": sum(story.in_a_write for story in stories),
        "final weights": f"the uninterrupted run's to the byte, {len(stories)} times",
        "else it counts as not survived": "a step of the ledger is done twice, a training step told twice or not at "
                                          "all, two trainers are at work in one folder, a process is left",
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


def _counted(words) -> str:
    return ", ".join(f"{word} {count}" for word, count in Counter(words).most_common())
