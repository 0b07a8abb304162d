"""An accelerator that fails, on a machine that pretends to have one (injected/pretended_device.py): in the training and
in every other phase that uses it, once and for good.

What fails for good does so from the first step on it, so that all that counts is computed by the CPU: the weights are
the undisturbed run's to the byte. After a single failure the training continues on the accelerator, whose kernels
round in another way.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial

from filelock import FileLock

from bench.faults.kinds import memory
from bench.faults.stage import injection
from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.injection import Fault, injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.scene import Scene
from nanogpt import durable

MPS = {"what": "pretend", "device": "mps"}
ON_MPS = ("--set", "device.type=mps", "--budget", "1h")  # steps, not the clock, end the training
ALWAYS = {"device": "mps", "times": None}
STALL_SECONDS = 30  # instead of five minutes; a busy machine takes ten to import torch
PATIENCE_SECONDS = 30
SECONDS = 600.0  # three processes and two waits; 25 s of one core
INTERRUPTED = "interrupted"  # the row of prepare()'s kill


def not_implemented(scene: Scene) -> Finding:
    """aten::mm raises NotImplementedError as MPS does for operators that it lacks, each time."""
    return in_training(scene, {"what": "raise", "error": "mps not implemented", "operator": "aten::mm", "step": NEXT},
                       "not currently implemented for the MPS device")  # fmt: skip


def float64(scene: Scene) -> Finding:
    """aten::mul raises the TypeError of a tensor that would become float64, each time."""
    return in_training(scene, {"what": "raise", "error": "mps float64", "operator": "aten::mul", "step": NEXT},
                       "Cannot convert a MPS Tensor to float64")  # fmt: skip


def command_buffer(scene: Scene) -> Finding:
    """The command-buffer line on stderr, no exception, and zeros from every aten::mm from then on, each time."""
    zeros = {"what": "wrong", "operator": "aten::mm", "from_step": 1}
    line = {"what": "print", "at": "step"}
    return in_training(scene, line, "command buffer exited with error status", more=[zeros])


def assertion(scene: Scene) -> Finding:
    """Metal's assertion on stderr, then abort(), each time."""
    return in_training(scene, {"what": "abort", "at": "step"}, "commit an already committed command buffer")


def hang(scene: Scene) -> Finding:
    """The main thread waits in C for ever, as in torch.mps.synchronize, each time; stalls are reported after 30 s."""
    sooner = injection.STALL_SECONDS.replaced_by(STALL_SECONDS)
    return in_training(scene, {"what": "hang", "how": "waiting", "at": "step"}, "no heartbeat", more=[sooner])


def slightly_wrong(scene: Scene) -> Finding:
    """Every product is 1 % too large, and nothing is said: only the comparison with the CPU at the start can tell."""
    return in_training(scene, {"what": "wrong", "operator": "aten::mm", "by": 0.01}, "does not compute what the CPU")


def once(scene: Scene) -> Finding:
    """Metal's assertion and abort(), once: the next process continues with the accelerator."""
    prepare(scene)
    take_undisturbed_as_reference(scene)
    fault = {"what": "abort", "at": "step", "counter": str(scene.counter), "times": 1}
    scene.run(*ON_MPS, env=injecting(MPS, fault))
    row = scene.remedy("training.tiny", "already committed command buffer")
    if len([row for row in scene.remedies() if row["symptom"] != INTERRUPTED]) != 1 or last_device(scene) != "mps":
        raise NotSurvived(f"gave up at once: {scene.remedies()}")
    return Finding(scene.noticed("already committed command buffer"), row["remedy"], steps_lost=row["steps_lost"])


def out_of_memory(scene: Scene) -> Finding:
    """MPS's allocator refuses each backward pass of more than two windows, from step 5 on."""
    memory.prepare(scene, memory.LIGHT)
    fault = {**ALWAYS, "what": "raise", "error": "mps out of memory", "operator": "aten::embedding_dense_backward",
             "micro_batch_above": 2, "from_step": 5}  # fmt: skip
    for phase in ("environment", "implementation", "configuration", "training"):
        scene.run(*ON_MPS, "--only", phase, env=injecting(MPS, fault))
    rows = memory.remedies(scene)
    if len(rows) != 1 or last_device(scene) != "mps" or memory.micro_batch(scene) != 2:
        raise NotSurvived(f"not one fresh process with half the micro-batch: {rows}, {last_device(scene)}")
    return Finding(scene.noticed("MPS backend out of memory"), rows[0]["remedy"], memory.micro_batch_words(scene),
                   memory.seconds_lost(scene), rows[0]["steps_lost"])  # fmt: skip


def in_the_proof(scene: Scene) -> Finding:
    """The device's proof in phase 1 aborts, each time."""
    return in_a_worker(scene, "environment.device", injection.PROVE, {"what": "abort"}, "committed command")


def in_the_checks(scene: Scene) -> Finding:
    """The component checks of phase 2 hang on the device, each time; that is reported after 30 s."""
    sooner = injection.CHECK_PATIENCE.replaced_by(PATIENCE_SECONDS)
    words = f"no answer within {PATIENCE_SECONDS} s"
    return in_a_worker(scene, "implementation.checks", injection.CHECK, {"what": "hang"}, words, sooner)


def in_the_measurement(scene: Scene) -> Finding:
    """The measurement of phase 3 aborts on the device, each time."""
    return in_a_worker(scene, "configuration.measure", injection.REHEARSE, {"what": "abort"}, "committed command")


def in_the_evaluation(scene: Scene) -> Finding:
    """The evaluation meets an operator that the device lacks, each time."""
    fault = {"what": "raise", "error": "mps not implemented"}
    return in_a_worker(scene, "evaluation.models", injection.SUMMARISE, fault, "for the MPS device")


# -- what they share -------------------------------------------------------------------------------------------------

NEXT = None  # any step: the first that is taken


def in_training(scene: Scene, fault: Fault, words: str, more: Sequence[Fault] = ()) -> Finding:
    """The fault strikes whenever the accelerator trains: once more in a fresh process, then the CPU to the end."""
    prepare(scene)
    faults = [{**ALWAYS, **part} if part["what"] != "replace" else part for part in [fault, *more]]
    scene.run(*ON_MPS, env=injecting(MPS, *faults))
    rows = [row for row in scene.remedies() if row["symptom"] != INTERRUPTED]
    if len(rows) != 2 or last_device(scene) != "cpu":
        raise NotSurvived(f"not once more and then the CPU: {rows}, then {last_device(scene)}")
    for text in (scene.log(), scene.report_text()):
        if words not in text:
            raise NotSurvived(f"the person cannot know: no {words!r} in {text[-1500:]}")
    return Finding(scene.noticed(words), " / ".join(row["remedy"] for row in rows))


def in_a_worker(scene: Scene, step: str, target: str, fault: Fault, words: str, *more: Fault) -> Finding:
    """The fault strikes whenever the worker does `target` on the accelerator."""
    prepare(scene)
    strikes = {**ALWAYS, **fault, "process": "worker", "at": "call", "target": target}
    scene.run(*ON_MPS, "--redo", step, env=injecting(MPS, strikes, *more))
    rows = [row for row in scene.remedies() if row["symptom"] == "device"]
    if len(rows) != 2 or words not in scene.log():
        raise NotSurvived(f"not once more and then the CPU: {rows}")
    return Finding(scene.noticed(words), " / ".join(row["remedy"] for row in rows))


def prepare(scene: Scene) -> None:
    """The half run on a machine that has an accelerator: proved, checked, measured, and no step taken with it."""
    ready = scene.text.parent / "templates" / "half with mps"
    with FileLock(f"{ready}.lock"):
        if not ready.is_dir():
            process = scene.start(*ON_MPS, env=injecting(MPS, {
                "what": "hang", "how": "asleep", "at": "setting up", "counter": str(scene.counter)}))  # fmt: skip
            process.wait_for(scene.counter.exists, "a trainer that has taken no step")
            process.kill("both")
            scene.counter.unlink()
            shutil.copytree(scene.workspace, ready)
            return
    shutil.rmtree(scene.workspace)
    shutil.copytree(ready, scene.workspace)


def take_undisturbed_as_reference(scene: Scene) -> None:
    """The same half, continued on the accelerator without a fault. The CPU's own continuation has other kernels and
    products of another precision, of which Muon makes 0.02 of the loss."""
    ready = scene.text.parent / "templates" / "whole with mps"
    with FileLock(f"{ready}.lock"):
        if not ready.is_dir():
            scene.run(*ON_MPS, env=injecting(MPS))
            shutil.copytree(scene.model, ready)
            prepare(scene)
            scene.results.clear()
            scene.begin()
    memory.take_as_reference(scene, ready)


def last_device(scene: Scene) -> str:
    """What the training ended on."""
    device: str = durable.read_json(scene.model / "outcome.json")["device"]
    return device


_kind = partial(Kind, group="device", seconds=SECONDS)
KINDS = [
    _kind("mps, an operator is not implemented", inflict=not_implemented, small=False),
    _kind("mps, a tensor would become float64", inflict=float64, small=False),
    _kind("mps, command-buffer error on stderr alone", inflict=command_buffer, small=False),
    _kind("mps, failed assertion and abort", inflict=assertion, small=False),
    _kind("mps, hang", inflict=hang, small=False),
    _kind("mps, slightly wrong numbers", inflict=slightly_wrong),
    _kind("mps, abort once", inflict=once, exact=False, small=False),
    _kind("mps, out of memory", inflict=out_of_memory, template="whole", exact=False, small=False),
    _kind("mps, abort while it is proved", inflict=in_the_proof, small=False),
    _kind("mps, hang while the library is checked", inflict=in_the_checks, small=False),
    _kind("mps, abort while speed is measured", inflict=in_the_measurement, small=False),
    _kind("mps, an operator is missing in the evaluation", inflict=in_the_evaluation, exact=False, small=False),
]
