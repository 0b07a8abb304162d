"""Memory that runs out: for real, under a limit at which the allocator itself fails, and in other allocators' words.

The victim has no dropout, so that halves of a micro-batch see what the whole saw: the loss curve must be that of the
unlimited run within rounding. Its limit is on the trainer alone, set from outside as soon as it lives (prlimit), and
worked out from what the same training took without one and from what nanogpt.measure.memory predicts.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from filelock import FileLock

from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.injection import PRESSURE, Fault, injecting
from bench.faults.stage.kind import Kind
from bench.faults.stage.process import is_trainer, marked
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import MODEL, Row, rows_of
from bench.faults.stage.verdict import apart, losses
from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.measure.memory import predict

MODELS = """\
model: {{preset: modern, n_layer: {n_layer}, n_head: 4, n_embd: {n_embd}, block_size: {block_size},
        zero_init: {zero_init}}}
training: {{batch_size: {batch_size}, max_iters: {max_iters}, warmup_iters: 2, eval_interval: 6, sample_interval: 0,
           log_interval: 1, checkpoint_interval: 4, sample_temperatures: [0.8], optimizer: {optimizer},
           learning_rate: {learning_rate}}}
data: {{tokenizer: char, bpe_vocab_size: 512}}
device: {{type: cpu, mixed_precision: false, threads: 1}}
"""
# Activations of 140 MB at micro-batch 4, of 35 MB at 1, of 6 MB where blocks are computed again.
# Another micro-batch rounds otherwise: by 2e-7 in eight steps, where Muon from matrices of zeros makes 6e-3 of it.
STEADY = {"zero_init": "false", "optimizer": "adamw", "learning_rate": 0.001}
BRISK = {**STEADY, "learning_rate": 0.01}  # learns in 16 steps
LIVELY = {"zero_init": "true", "optimizer": "muon", "learning_rate": 0.01}
WIDE = MODELS.format(n_layer=8, n_embd=64, block_size=512, batch_size=4, max_iters=8, **STEADY)
LIGHT = MODELS.format(n_layer=2, n_embd=32, block_size=128, batch_size=4, max_iters=16, **BRISK)
LARGE = MODELS.format(n_layer=4, n_embd=160, block_size=32, batch_size=2, max_iters=40, **LIVELY)  # more than micro has
TIME = ("--budget", "1h")  # so that steps, not the clock, end a training
AGAIN = ("--redo", f"training.{MODEL}")
SHORT = ("--set", "training.max_iters=40", "--set", "training.log_interval=1")  # the smaller model, too
SHORTER_CONTEXT = 0.02  # relative; 0.002 was measured after 16 steps, in which a model learns little of long contexts
LEARNT = 0.8  # of the first loss; 0.58 was measured
NO_KEPT_BLOCK = "gradient checkpointing"
CPU_IS_FULL = {"what": "raise", "error": "cpu out of memory", "operator": "aten::embedding_dense_backward"}


# -- for real --------------------------------------------------------------------------------------------------------


def address_space(scene: Scene) -> Finding:
    """RLIMIT_AS on the trainer, with room for one of the four windows in a pass, if nothing were ever scattered.

    What it takes at most is more than its passes by some 80 MB that evaluations and checkpoints scatter.
    """
    taken = prepare(scene, WIDE)
    limit = taken - (needed(scene, 4) - needed(scene, 1))
    with limited(scene, limit):
        train(scene)
    row = remedy(scene, "halve the micro-batch", "can't allocate memory")
    if micro_batch(scene) not in (1, 2):
        raise NotSurvived(f"ended with micro-batch {micro_batch(scene)}")
    return Finding(scene.noticed("DefaultCPUAllocator: can't allocate"), row["remedy"], micro_batch_words(scene),
                   seconds_lost(scene))  # fmt: skip


def address_space_for_blocks(scene: Scene) -> Finding:
    """RLIMIT_AS on the trainer, with room for a quarter of a window in a pass, if nothing were ever scattered.

    Where one window fits all the same, because a trainer needs less than it can take, there is less and less room.
    """
    taken = prepare(scene, WIDE)
    for quarters in (3, 5, 7, 9):
        with limited(scene, taken - needed(scene, 4) - needed(scene, 1) * quarters // 4):
            train(scene)
        if NO_KEPT_BLOCK in all_remedies(scene):
            break
    remedy(scene, NO_KEPT_BLOCK)
    noticed = scene.noticed("can't allocate memory|after memory had run out")
    return Finding(noticed, all_remedies(scene), micro_batch_words(scene), seconds_lost(scene))


# -- in the words of allocators --------------------------------------------------------------------------------------


def windows(scene: Scene) -> Finding:
    """The CPU's allocator refuses in the backward pass four times: at micro-batch 4, 2, 1, and with recomputation."""
    prepare(scene, LIGHT)
    fault = {**CPU_IS_FULL, "from_step": 5, "times": 4, "counter": str(scene.counter)}
    train(scene, fault)
    context = durable.read_json(scene.model / "outcome.json")["context"]
    if context != 64:
        raise NotSurvived(f"trained in windows of {context}; expected 64")
    near = near_the_unlimited(scene, step=5)
    return Finding(scene.noticed("can't allocate memory"), all_remedies(scene), f"windows of {context}, {near}",
                   seconds_lost(scene))  # fmt: skip


def next_smaller(scene: Scene) -> Finding:
    """The CPU's allocator refuses every backward pass of a model of 1.3 M parameters."""
    scene.config = scene.workspace.with_suffix(".config") / f"{MODEL}.yaml"
    durable.write_text(scene.config, LARGE)
    fault = {**CPU_IS_FULL, "model": MODEL, "times": None}
    for phase in ("environment", "configuration", "training", "documentation"):
        scene.run(*TIME, *SHORT, "--only", phase, env=injecting(fault))
    row = scene.remedy("the next smaller model", "micro")
    if "micro" not in scene.report_text():
        raise NotSurvived("the report does not tell of the smaller model")
    scene.model = scene.model.with_name("micro")
    learnt = trained_to_its_end(scene, steps=40)
    take_as_reference(scene, scene.model)  # of this model there is no other run
    return Finding(scene.noticed("can't allocate memory"), row["remedy"], f"{row['outcome']}, {learnt}",
                   seconds_lost(scene))  # fmt: skip


def memory_error(scene: Scene) -> Finding:
    """MemoryError, without a word, in the backward pass of step 7, once."""
    return once(scene, {**CPU_IS_FULL, "error": "MemoryError", "step": 7}, "MemoryError")


def bad_alloc(scene: Scene) -> Finding:
    """std::bad_alloc at the end of step 7's update, when the weights are half changed, once."""
    return once(scene, {"what": "raise", "error": "bad_alloc", "at": "update", "step": 7}, "bad_alloc")


def rust(scene: Scene) -> Finding:
    """Rust's allocator, which safetensors uses, gives up while a checkpoint is written: its line, and abort(), once."""
    says = "memory allocation of 872968 bytes failed"
    return once(scene, {"what": "abort", "at": "saving", "says": says, "step": 8}, says)


def killed(scene: Scene) -> Finding:
    """SIGKILL of the trainer in step 7, with less memory left than counts as pressure (the threshold is raised)."""
    return once(scene, {"what": "signal", "step": 7}, "killed with .* of memory left", PRESSURE.replaced_by(1.0))


def comes_back(scene: Scene) -> Finding:
    """Out of memory once at step 5; Ctrl-C; on again, and then a --fresh run, with all the memory there is."""
    prepare(scene, LIGHT)
    fault = {**CPU_IS_FULL, "step": 5, "counter": str(scene.counter)}
    begun = Path(f"{scene.counter}.hang")
    slow = {"what": "hang", "how": "asleep", "at": "step", "step": 8, "counter": str(begun)}
    process = scene.start(*TIME, *AGAIN, "--only", "training", env=injecting(fault, slow))
    process.wait_for(begun.exists, "step 8, in halves")
    process.interrupt()
    process.wait()
    scene.run(*TIME, "--only", "training")
    found = [micro_batch(scene)]
    scene.run(*TIME, "--fresh")
    found.append(micro_batch(scene))
    if found != [2, 2]:
        raise NotSurvived(f"micro-batches of 2 fitted; then {found} were taken")
    said = scene.noticed("as it fitted on")
    if scene.events("out_of_memory"):
        raise NotSurvived("out of memory again")
    return Finding(said, "none is needed: it begins with what fitted", "micro-batch 2 from the first step",
                   seconds_lost=0.0, steps_lost=0)  # fmt: skip


# -- what they share -------------------------------------------------------------------------------------------------


def once(scene: Scene, fault: Fault, words: str, *more: Fault) -> Finding:
    """The fault strikes once in the training, which continues in halves."""
    prepare(scene, LIGHT)
    train(scene, {**fault, "times": 1, "counter": str(scene.counter)}, *more)
    row = remedy(scene, "halve the micro-batch")
    if micro_batch(scene) != 2:
        raise NotSurvived(f"ended with micro-batch {micro_batch(scene)}, not 2")
    return Finding(
        scene.noticed(words), row["remedy"], micro_batch_words(scene), seconds_lost(scene), row["steps_lost"]
    )


def train(scene: Scene, *faults: Fault) -> None:
    """The training alone: what follows it has nothing to do with memory."""
    scene.run(*TIME, *AGAIN, "--only", "training", env=injecting(*faults) if faults else {})


def prepare(scene: Scene, config: str) -> int:
    """The scene becomes a run of `config` that has all but its model; its reference is the run that had memory.

    Returns the most address space that its trainer took, in bytes.
    """
    ready = scene.text.parent / "templates" / f"memory {durable.digest(config)[:8]}"
    scene.config = ready / f"{MODEL}.yaml"
    with FileLock(f"{ready}.lock"):
        if not (ready / "facts.json").exists():
            durable.write_text(scene.config, config)
            with watched(scene) as peak:
                for phase in ("environment", "configuration", "training"):
                    scene.run(*TIME, "--only", phase)
            shutil.copytree(scene.model, ready / "model")
            shutil.rmtree(scene.model)
            shutil.copytree(scene.workspace, ready / "workspace")
            durable.write_json(ready / "facts.json", {"address_space": peak[0]})
    shutil.rmtree(scene.workspace)
    shutil.copytree(ready / "workspace", scene.workspace)
    take_as_reference(scene, ready / "model")
    scene.run(*TIME, "--only", "environment")  # it depends on where the workspace is
    scene.results.clear()
    scene.begin()
    taken: int = durable.read_json(ready / "facts.json")["address_space"]
    return taken


def take_as_reference(scene: Scene, model: Path) -> None:
    """What lies in this folder is what the scene's model is compared with."""
    sha256 = durable.sha256_file(model / "final/model.safetensors")
    scene.reference = replace(scene.reference, final_sha256=sha256, metrics=rows_of(model))


def near_the_unlimited(scene: Scene, step: int) -> str:
    """How far the losses, of shorter contexts from `step` on, are from those of the unlimited run.

    Raises NotSurvived when they are further than SHORTER_CONTEXT, other ones before `step`, or of other steps.
    """
    mine, theirs = losses(scene.metrics()), losses(scene.reference.metrics)
    each_step_in_order(scene, steps=max(of for _, of in theirs))
    if mine.keys() != theirs.keys():
        raise NotSurvived(f"rows that only one of the two runs has: {sorted(mine.keys() ^ theirs.keys())}")
    if other := [key for key in theirs if key[1] < step and mine[key] != theirs[key]]:
        raise NotSurvived(f"other losses before memory ran out: {other}")
    furthest = max(apart(mine[key], theirs[key]) for key in theirs)
    if furthest > SHORTER_CONTEXT:
        raise NotSurvived(f"the loss curve differs by {furthest:.1g}; shorter contexts explain {SHORTER_CONTEXT:g}")
    return f"losses within {100 * furthest:.1f} % of whole windows'"


def trained_to_its_end(scene: Scene, steps: int) -> str:
    """What the scene's model has learnt. Raises NotSurvived unless it took each step, was judged after the last, and
    the loss fell."""
    each_step_in_order(scene, steps)
    curve = losses(scene.metrics())
    if ("eval", steps) not in curve:
        raise NotSurvived(f"not judged after step {steps}: {sorted(curve)}")
    first, last = curve["train", 1], curve["eval", steps]
    if last >= LEARNT * first:
        raise NotSurvived(f"it learnt nothing: loss {first} at first, {last} at last")
    return f"{steps} steps, loss {first:.2f} to {last:.2f}"


def each_step_in_order(scene: Scene, steps: int) -> None:
    """Raises NotSurvived unless each step has one row, in order, and each loss is a number."""
    rows = scene.metrics()
    for kind, wanted in (("train", list(range(1, steps + 1))), ("eval", None)):
        found = [row["step"] for row in rows if row["kind"] == kind]
        if found != (wanted or sorted(set(found))):
            raise NotSurvived(f"{kind} rows of steps {found} instead of 1 to {steps}, each once")
    if wrong := [key for key, loss in losses(rows).items() if not math.isfinite(loss)]:
        raise NotSurvived(f"no number for a loss: {wrong}")


def needed(scene: Scene, micro_batch: int) -> int:
    """Predicted bytes of the passes in the training of the scene."""
    config = load_config(scene.config.parent / "model/config.yaml")
    return predict(config, micro_batch=micro_batch).total


def seconds_lost(scene: Scene) -> float:
    """By the remedies' own account: the scene's training was no part of its template's time."""
    return sum(float(row["cost_seconds"]) for row in remedies(scene))


def remedies(scene: Scene) -> list[Row]:
    """The training's own, from its marker: the report has them once it is written."""
    rows: list[Row] = durable.read_json(scene.markers / f"training.{MODEL}.json")["remedies"]
    return rows


def remedy(scene: Scene, *words: str) -> Row:
    """The first against memory that has all `words`. Raises NotSurvived without one."""
    for row in remedies(scene):
        text = f"{row['evidence']} {row['remedy']} {row['outcome']}"
        if row["symptom"] == "out_of_memory" and all(word in text for word in words):
            return row
    raise NotSurvived(f"no remedy against memory with {' and '.join(words)}; there are {remedies(scene)}")


def all_remedies(scene: Scene) -> str:
    """Each once, in the order in which they were taken."""
    return " / ".join(dict.fromkeys(row["remedy"] for row in remedies(scene)))


def micro_batch(scene: Scene) -> int:
    """That the training ended with."""
    size: int = durable.read_json(scene.model / "outcome.json")["micro_batch"]
    return size


def micro_batch_words(scene: Scene) -> str:
    return f"micro-batch {micro_batch(scene)}"


@contextmanager
def limited(scene: Scene, limit: int) -> Iterator[None]:
    """Every trainer of the scene may have so many bytes of address space, from its first moments on."""
    seen: set[int] = set()

    def limit_it(trainer: psutil.Process) -> None:
        if trainer.pid not in seen:
            seen.add(trainer.pid)
            trainer.rlimit(resource.RLIMIT_AS, (limit, limit))

    with looking_at_trainers(scene, limit_it):
        yield


@contextmanager
def watched(scene: Scene) -> Iterator[list[int]]:
    """[the most bytes of address space that a trainer of the scene has had]."""
    peak = [0]

    def look(trainer: psutil.Process) -> None:
        status = Path(f"/proc/{trainer.pid}/status").read_text(encoding="ascii")
        peak[0] = max(peak[0], int(status.partition("VmPeak:")[2].split()[0]) * 1024)

    with looking_at_trainers(scene, look):
        yield peak


@contextmanager
def looking_at_trainers(scene: Scene, look: Callable[[psutil.Process], None]) -> Iterator[None]:
    """look(trainer), fifty times a second, while there is one."""
    over = threading.Event()

    def keep_looking() -> None:
        while not over.wait(0.02):
            for process in marked(str(scene.workspace)):
                try:
                    if is_trainer(process):
                        look(process)
                except (psutil.Error, OSError, IndexError):  # it has ended
                    continue

    thread = threading.Thread(target=keep_looking, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


_kind = partial(Kind, group="memory", template="whole")
LIMITS = [
    _kind("memory, a limit that only half a micro-batch fits", inflict=address_space, exact=False),
    # Where malloc gives up a process is chance: sometimes it dies of it.
    _kind("memory, a limit that no kept block fits", inflict=address_space_for_blocks, exact=False, small=False),
]
KINDS = [
    *(LIMITS if sys.platform == "linux" else []),  # elsewhere no process can limit another, and RLIMIT_AS limits none
    _kind("memory, shorter windows", inflict=windows, exact=None, small=False),
    _kind("memory, the next smaller model", inflict=next_smaller, exact=None, small=False),
    _kind("memory, MemoryError in a step", inflict=memory_error, exact=False, small=False),
    _kind("memory, bad_alloc in an update", inflict=bad_alloc, exact=False, small=False),
    _kind("memory, Rust's allocator aborts", inflict=rust, exact=False, small=False),
    _kind("memory, killed by the system", inflict=killed, exact=False, small=False),
    _kind("memory, comes back", inflict=comes_back, exact=False, small=False),
]
