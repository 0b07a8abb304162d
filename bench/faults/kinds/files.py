"""Torn and rotten files, at rest between two starts of a run: each must be noticed, named and repaired.

The files are found in the workspace itself: one that a later version of the project keeps is in the campaign without
a line here, and must be noticed too, unless UNIMPORTANT says that it may be lost.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.faults.kinds.damage import DAMAGES, inflict_all, named, one_bit_flipped
from bench.faults.kinds.memory import take_as_reference, trained_to_its_end
from bench.faults.stage.finding import Finding, NotSurvived
from bench.faults.stage.kind import Kind
from bench.faults.stage.scene import RUN, Scene
from bench.faults.stage.templates import CONFIG, MODEL, STEPS
from bench.faults.stage.verdict import judge
from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.fit import Fit
from nanogpt.machine import memory_bytes
from nanogpt.measure.memory_store import STORE, MemoryStore
from nanogpt.sources import outputs

BEFORE_COOL_DOWN = "before-cooldown"  # nanogpt.weights.checkpoint has it, with torch
REGION = 512  # bytes
FIVE_RUNS = 1500.0  # seconds
UNIMPORTANT = {  # what describes the past, or is written anew at each start: damaged, it changes no result
    f"logs/{RUN}/*": "what was said in former sessions",
    f"data/{RUN}/text/{outputs.MARK}": "that no text of this folder is learned from: the files next to it say so, too",
    f"state/{RUN}/session.json": "what the last session came to, for --status; its second copy has the options",
    f"state/{RUN}/clock.json": "how much of the budget is spent: without it, it begins again",
    f"state/{RUN}/holder.json": "who holds the lock, for a second start's refusal",
    f"state/{RUN}/lock": "empty",
    f"state/{RUN}/timeline.jsonl": "when what happened, for a figure",
    f"state/{RUN}/energy.json": "what a meter said so far: without it, the figure is of what follows",
    "reports/index.html": "the list of all runs, written anew with each report",
    f"state/{RUN}/copies/*": "second copies: the first ones are whole",
    "state/memory.json": "what fitted into memory: found out again",
    f"checkpoints/{RUN}/{MODEL}/heartbeat": "the last sign of life",
    f"checkpoints/{RUN}/{MODEL}/outcome.json": "how the trainer ended; the marker has it too",
    f"checkpoints/{RUN}/{MODEL}/events.jsonl": "what happened; remedies are in the markers",
    f"checkpoints/{RUN}/{MODEL}/tensorboard/*": "the curves again, from metrics.jsonl",
    f"checkpoints/{RUN}/{MODEL}/.lock": "empty",
    f"checkpoints/{RUN}/{MODEL}/checkpoints/*": "once the model is trained; verified when a longer training needs them",
    f"checkpoints/{RUN}/{MODEL}.previous/*": "what --redo replaced",
    "checkpoints/neighbour/*": "another run's, which has markers of its own",
}
WRITTEN_ANEW = ("config.yaml", "tokenizer.json", "tokenizer_config.json", "data.json")  # when a training continues
LONGER = STEPS + 40

Notice = Callable[[Scene, list[Path]], str]  # the line that names a file; raises NotSurvived unless all are named


def in_turns(scene: Scene, files: Callable[[Scene], list[Path]], remedy: str, notice: Notice = named) -> Finding:
    """Every file meets every damage, in five copies of the run; in the small form each file meets one."""
    noticed, verdicts, times = "", [], 0
    for turn in range(1 if scene.small else len(DAMAGES)):
        if turn > 0:
            scene.again()
        damaged = files(scene)
        inflict_all(damaged, turn)
        scene.run()
        noticed = noticed or notice(scene, damaged)
        notice(scene, damaged)
        verdicts.append(judge(scene, exact=True))
        times += len(damaged)
    return Finding(noticed, remedy, times=times)


def three_checkpoints(scene: Scene) -> Finding:
    """The newest checkpoint's weights, the second's state and the third's manifest: cut short, zeroed, one bit flipped,
    deleted, made unreadable, in turns."""

    def files(scene: Scene) -> list[Path]:
        newest = [scene.checkpoints / f"step-{step:08d}" for step in reversed(scene.checkpoint_steps())]
        return [newest[0] / "model.safetensors", newest[1] / "state.pt", newest[2] / "manifest.json"]

    return in_turns(scene, files, "set aside as *.bad; continues from the newest whole one")


def all_checkpoints(scene: Scene) -> Finding:
    """Every file of every checkpoint, damaged in all five ways."""
    files = sorted(scene.checkpoints.glob("*/*"))
    inflict_all(files, turn=0)
    scene.run()
    newest = scene.noticed("step-.* is set aside")
    scene.noticed("started: ")
    return Finding(newest, "set aside as *.bad, trained from the beginning", times=len(files))


def best_weights(scene: Scene) -> Finding:
    """The weights that were best so far, while the training is half done: damaged in five ways, in turns."""
    return in_turns(scene, lambda scene: [scene.model / "best/model.safetensors"], "set aside; the next best is kept")


def before_the_cool_down(scene: Scene) -> Finding:
    """The three files of the state before the cool-down of a trained model, damaged in five ways, in turns; then 40
    more steps are asked for, which would continue from there."""
    turns = 1 if scene.small else len(DAMAGES)
    scene.config = scene.workspace.with_suffix(".config") / f"{MODEL}.yaml"
    durable.write_text(scene.config, CONFIG.replace(f"max_iters: {STEPS}", f"max_iters: {LONGER}"))
    for turn in range(turns):
        if turn > 0:
            scene.again()
        inflict_all(sorted((scene.checkpoints / BEFORE_COOL_DOWN).iterdir()), turn)
        scene.run()
        if idle := [row["step"] for row in scene.metrics() if row["kind"] == "train" and not row["learning_rate"]]:
            raise NotSurvived(f"steps that can teach nothing, their learning rate is 0: {idle}")
        result = trained_to_its_end(scene, LONGER)
    take_as_reference(scene, scene.model)  # no other run continues like this
    row = scene.remedy("learning rate raised again")
    return Finding(scene.noticed(f"{BEFORE_COOL_DOWN} is set aside"), row["remedy"], result, times=3 * turns)


def metrics_and_samples(scene: Scene) -> Finding:
    """metrics.jsonl and samples.jsonl, while the training is half done: damaged in five ways, in turns."""

    def notice(scene: Scene, files: list[Path]) -> str:
        lines = [scene.noticed(file.name, "damaged|could not be opened") for file in files]
        return lines[0]

    return in_turns(scene, lambda scene: [scene.model / "metrics.jsonl", scene.model / "samples.jsonl"],
                    "written anew from the checkpoint, which keeps their rows", notice)  # fmt: skip


def outputs_of_every_step(scene: Scene) -> Finding:
    """One output of every step (text, token files, tokenizers, plan, weights, export, figures, report), and every file
    that no step and no list knows: damaged in five ways, in turns."""
    dice = random.Random(0)
    step_of = {scene.workspace / file["path"]: marker["step"]
               for path in sorted(scene.markers.glob("*.json"))
               for marker in [durable.read_json(path)] for file in marker["outputs"]}  # fmt: skip

    def files(scene: Scene) -> list[Path]:
        known = {*step_of, *scene.markers.iterdir()}
        unknown = [path for path in files_of(scene.workspace) if path not in known]
        steps = dict.fromkeys(step_of.values())
        return [dice.choice([path for path in step_of if step_of[path] == step]) for step in steps] + unknown

    def notice(scene: Scene, files: list[Path]) -> str:
        """By its path, or by its step, when that had a reason of its own: another input."""
        paths = [re.escape(str(file.relative_to(scene.workspace))) for file in files]
        steps = [f"|{re.escape(step_of[file])}: started" if file in step_of else "" for file in files]
        lines = [scene.noticed(path + step) for path, step in zip(paths, steps, strict=True)]
        return lines[0]

    return in_turns(scene, files, "the step was done again, the others kept", notice)


def files_of(workspace: Path) -> list[Path]:
    """Every file of a workspace that is worth something."""
    files = [path for path in sorted(workspace.rglob("*")) if path.is_file() and not path.is_symlink()]
    lost = {path for pattern in UNIMPORTANT for path in workspace.glob(pattern)}
    return [path for path in files if not lost & {path, *path.parents}]


def markers(scene: Scene) -> Finding:
    """The markers of all steps of a finished run at once: damaged in five ways, in turns."""
    return in_turns(scene, lambda scene: sorted(scene.markers.glob("*.json")), "put back from its copy")


def markers_and_copies(scene: Scene) -> Finding:
    """Markers of a finished run (every fifth in the small form) and their copies, damaged in five ways, in turns."""

    def files(scene: Scene) -> list[Path]:
        chosen = sorted(scene.markers.glob("*.json"))[:: 5 if scene.small else 1]
        for marker in chosen:
            one_bit_flipped(scene.state / "copies" / marker.name)
        return chosen

    return in_turns(scene, files, "the step was done again; what follows was kept, its result being the same")


def unimportant(scene: Scene) -> Finding:
    """Everything that may be lost (what fitted into memory, logs, clock, session, heartbeat, events, copies, a model's
    description and its data's), at once while the training is half done: damaged in five ways, in turns."""

    def files(scene: Scene) -> list[Path]:
        keep = {scene.checkpoints, scene.model.parents[1] / "neighbour"}
        found = [path for pattern in UNIMPORTANT for path in sorted(scene.workspace.glob(pattern))]
        found += [scene.model / name for name in WRITTEN_ANEW]
        found = [path for path in found if path.is_file() and path.stat().st_size and not keep & {path, *path.parents}]
        return [_what_fitted(scene), *(path for path in found if path.name != STORE)]

    def notice(scene: Scene, files: list[Path]) -> str:
        store = files[0]
        if any(map(os.path.lexists, (store, store.with_name(f"{STORE}.bad")))):  # else it was deleted
            return scene.noticed(STORE, "not what was written.* set aside")
        return scene.noticed(f"Train {MODEL}: done")

    return in_turns(scene, files, "none is needed: written anew", notice)


def _what_fitted(scene: Scene) -> Path:
    """A state/memory.json that says of this model what it does anyway."""
    config = load_config(scene.model / "config.yaml")
    store = MemoryStore(scene.state.parent, print)
    store.note_limit(config, memory_bytes(), Fit(config.training.batch_size), "it ran out of memory")
    return store.path


def half_written(scene: Scene) -> Finding:
    """What a sudden end leaves half-written: temporary files and folders, and best/ between its two renames."""
    torn = scene.checkpoints / ".step-00000080.tmp"
    torn.mkdir()
    weights = (scene.newest_checkpoint() / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    (scene.model / ".config.yaml.1.tmp").write_text("model: {n_la")
    (scene.markers / ".training.tiny.json.1.tmp").write_text('{"step": "training.t')
    (scene.model / "best").rename(scene.model / ".best.old")
    with open(scene.model / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "train", "step": 66, "lo')
    scene.run()
    if torn.exists():
        raise NotSurvived(f"{torn} is still there")
    return Finding(scene.noticed("resumed"), "not taken for a whole one; best/ renamed back", times=5)


def folders(scene: Scene) -> Finding:
    """The folders data, exports and reports of a finished run, deleted."""
    for name in ("data", "exports", "reports"):
        shutil.rmtree(scene.workspace / name / RUN)
    scene.run()
    return Finding(scene.noticed("dataset.clean: started", "missing"), "made again; the training was kept", times=3)


def every_region(scene: Scene) -> Finding:
    """One random bit in every 512 bytes of a checkpoint, one after the other, each followed by a try to load it; then
    one that stays for the next start."""
    from nanogpt.faults import CorruptFileError
    from nanogpt.weights import checkpoint  # torch: 2 s, which no other kind needs

    newest, dice, times = scene.newest_checkpoint(), random.Random(0), 0
    for file in sorted(newest.iterdir()):
        whole = file.read_bytes()
        for begin in range(0, len(whole), REGION):
            rotten = bytearray(whole)
            rotten[dice.randrange(begin, min(begin + REGION, len(whole)))] ^= 1 << dice.randrange(8)
            file.write_bytes(rotten)
            times += 1
            try:
                checkpoint.load(newest)
            except CorruptFileError:
                continue
            raise NotSurvived(f"{file.name}: a bit flipped between {begin} and {begin + REGION} was not noticed")
        file.write_bytes(whole)
    one_bit_flipped(newest / "state.pt")
    scene.run()
    return Finding(scene.noticed(newest.name, "set aside"), "set aside; continues from the one before", times=times + 1)


KINDS = [
    Kind("three checkpoints", "files", three_checkpoints, seconds=FIVE_RUNS),
    Kind("all checkpoints", "files", all_checkpoints, small=False),
    Kind("every region of a checkpoint", "files", every_region, small=False),
    Kind("best weights", "files", best_weights, seconds=FIVE_RUNS),
    Kind("state before the cool-down", "files", before_the_cool_down, template="whole", exact=None, seconds=FIVE_RUNS),
    Kind("metrics and samples", "files", metrics_and_samples, seconds=FIVE_RUNS, small=False),
    Kind("outputs of every step", "files", outputs_of_every_step, template="whole", seconds=FIVE_RUNS),
    Kind("markers", "files", markers, template="whole", seconds=FIVE_RUNS),
    Kind("markers and their copies", "files", markers_and_copies, template="whole", seconds=FIVE_RUNS, small=False),
    Kind("what may be lost", "files", unimportant, seconds=FIVE_RUNS),
    Kind("half-written files", "files", half_written, small=False),
    Kind("folders deleted", "files", folders, template="whole", small=False),
]
