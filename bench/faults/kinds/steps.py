"""Steps that go wrong: poisoned gradients, a trainer that crashes, stops or stands still at one of them, and a display
that fails at each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.faults.stage import injection
from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.injection import Fault, injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import MODEL

STEP = 105  # beyond where the half run stands, between two checkpoints
SOONER = (injection.STALL_SECONDS.replaced_by(10), injection.GRACE_SECONDS.replaced_by(2))


def poisoned(scene: Scene) -> Finding:
    """NaN in the gradients of two steps; the whole training again with the same poison, and a kill -9 behind it."""
    poison = {"what": "gradients", "step": [STEP, STEP + 3], "times": None}
    return same_with_a_kill(scene, [poison], "non-finite")


def spike(scene: Scene) -> Finding:
    """Gradients of one step a million times too large, judged by the last 64 steps, for 128 are more than there are;
    the whole training again with the same, and a kill -9 behind it."""
    poison = {"what": "gradients", "value": 1e6, "step": STEP, "times": None}
    return same_with_a_kill(scene, [poison, injection.SPIKE_WINDOW.replaced_by(64)], "spike")


def rewound(scene: Scene) -> Finding:
    """NaN in the gradients of three steps in a row: back to a healthy checkpoint; again the same, and a kill -9."""
    poison = {"what": "gradients", "step": [STEP, STEP + 1, STEP + 2], "times": 3}
    return same_with_a_kill(scene, [poison], "back to")


def crash(scene: Scene) -> Finding:
    """An exception that nobody knows, at a step, once."""
    return once(scene, {"what": "raise", "type": "RuntimeError", "says": "a gremlin"}, "a gremlin")


def segfault(scene: Scene) -> Finding:
    """SIGSEGV at a step, once."""
    return once(scene, {"what": "signal", "signal": "SIGSEGV"}, "SIGSEGV")


def killed_thrice(scene: Scene) -> Finding:
    """SIGKILL at the same step, three times, without a checkpoint between them and with memory to spare."""
    return once(scene, {"what": "signal", "times": 3}, "SIGKILL")


def hang(scene: Scene) -> Finding:
    """Python sleeps for ever at a step, once; a stall is reported after 10 s instead of five minutes."""
    return once(scene, {"what": "hang", "how": "asleep"}, r"no heartbeat for \d+ s", *SOONER)


def hang_in_c(scene: Scene) -> Finding:
    """The main thread waits in C for ever at a step and no signal's handler runs, once; reported after 10 s,
    killed 2 s after it was asked to end."""
    return once(scene, {"what": "hang", "how": "waiting"}, r"no heartbeat for \d+ s", *SOONER)


def frozen(scene: Scene) -> Finding:
    """SIGSTOP to the trainer; a stall is reported after 10 s instead of five minutes, its stacks are waited for
    1 s instead of 5 s, the kill comes 2 s later."""
    process = scene.start(env=injecting(*SOONER, injection.DUMP_SECONDS.replaced_by(1)))
    process.wait_for(lambda: scene.events("resumed") and process.trainer is not None, "a trainer at work")
    process.living_trainer().suspend()
    scene.results.append(process.wait())
    return found(scene, r"no heartbeat for \d+ s")


def crash_always(scene: Scene) -> Finding:
    """An exception at the same step each time, until the remedies are used up: a report, exit code 1, the command that
    continues; then the cause is gone, and the same command."""
    gremlin = at_the_step({"what": "raise", "type": "RuntimeError", "says": "a gremlin"})
    result = scene.run(env=injecting(gremlin), code=1)
    for text, place in ((result.output, "terminal"), (scene.report_text(), "report")):
        if "no remedy is left" not in text or "flows.full_run" not in text:
            raise NotSurvived(f"the {place} does not say why it ended and how it continues: {text[-1500:]}")
    tried = [row["remedy"] for row in scene.remedies()]
    scene.run()
    return Finding(scene.noticed("no remedy is left"), f"{'; '.join(tried)}; a report with the command that continues")


def display_fails(scene: Scene) -> Finding:
    """What shows the training's progress raises a TypeError at each heartbeat."""
    scene.run(env=injecting(injection.PIPED_PROGRESS_SECONDS.replaced_by("soon")))
    if rows := scene.remedies():
        raise NotSurvived(f"what was only to be shown cost the training something: {rows}")
    if (times := scene.log().count("cannot be shown")) != 1:
        raise NotSurvived(f"reported {times} times in the action log")
    return Finding(scene.noticed("cannot be shown"), "none is needed: reported once, and the training is not stopped")


# -- what they share -------------------------------------------------------------------------------------------------


def at_the_step(fault: Fault) -> Fault:
    return {"at": "step", "step": STEP, "times": None, **fault}


def once(scene: Scene, fault: Fault, words: str, *more: Fault) -> Finding:
    """The fault strikes once in all, or as often as it says itself, whatever process comes to that step."""
    scene.run(env=injecting(counted(scene, at_the_step({"times": 1, **fault}), "strikes"), *more))
    return found(scene, words)


def found(scene: Scene, words: str) -> Finding:
    rows = [row for row in scene.remedies() if row["step"] == f"training.{MODEL}"]
    if not rows:
        raise NotSurvived("the report has no remedy")
    return Finding(scene.noticed(words), rows[-1]["remedy"], steps_lost=sum(row["steps_lost"] for row in rows),
                   times=len(rows))  # fmt: skip


def same_with_a_kill(scene: Scene, poison: list[Fault], words: str) -> Finding:
    """Train to the end with `poison`; then from the beginning with the same, and killed behind it: the same bytes."""
    scene.run(env=injecting(*(counted(scene, fault, "first") for fault in poison)))
    noticed, rows = scene.noticed(words), scene.remedies()
    poisoned_run = replace(
        scene.reference, final_sha256=scene.final_sha256(), best_sha256=scene.best_sha256(), metrics=scene.metrics()
    )
    if poisoned_run.final_sha256 == scene.reference.final_sha256:
        raise NotSurvived("the poison has changed nothing")
    scene.reference = poisoned_run
    kill = counted(scene, {"what": "signal", "at": "step", "step": STEP + 9}, "kill")
    scene.run("--redo", f"training.{MODEL}", env=injecting(*(counted(scene, fault, "again") for fault in poison), kill))
    scene.noticed("SIGKILL")
    return Finding(noticed, rows[-1]["remedy"], times=len(rows), steps_lost=sum(row["steps_lost"] for row in rows))


def counted(scene: Scene, fault: Fault, name: str) -> Fault:
    """`fault`, counted over all restarts where it has a number of times."""
    if fault["what"] == "replace" or fault.get("times", 1) is None:
        return fault
    return {**fault, "counter": str(Path(f"{scene.workspace}.{name}"))}


# The first three train anew twice: 220 s were measured with seven other loads on two cores.
KINDS = [
    Kind("NaN in gradients", "steps", poisoned, seconds=600.0, small=False),
    Kind("a spike in gradients", "steps", spike, seconds=600.0, small=False),
    Kind("NaN three steps in a row", "steps", rewound, seconds=600.0, small=False),
    Kind("a crash at a step", "steps", crash, small=False),
    Kind("a crash at the same step for ever", "steps", crash_always),
    Kind("a segmentation fault", "steps", segfault, small=False),
    Kind("SIGKILL at the same step, three times", "steps", killed_thrice, small=False),
    Kind("a hang in Python", "steps", hang, small=False),
    Kind("a hang in C", "steps", hang_in_c, small=False),
    Kind("a frozen trainer (SIGSTOP)", "steps", frozen, small=False),
    Kind("a display that fails", "steps", display_fails),
]
