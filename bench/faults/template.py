"""The smallest run that has everything, made once for a campaign; each kind of fault gets a copy of it.

It is made in two parts, each by whoever needs it first: a finished run, and from that one a run stopped in the middle.

120 steps without a clock, a checkpoint every 20 of them (the newest three are kept), two evaluations, two samples,
dropout, a warm-up and a cool-down that begins at step 48: two layers of 32, 8 windows of 32 characters.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from bench.faults.injection import injecting
from bench.faults.kind import NotSurvived
from bench.faults.process import Patience
from flows.context.options import CHECKOUT
from nanogpt import durable
from nanogpt.training.record.metrics import read_rows

if TYPE_CHECKING:
    from bench.faults.scene import Scene

MODEL = "tiny"
STEPS, CHECKPOINT_INTERVAL, EVAL_INTERVAL = 120, 20, 60
CONFIG = f"""\
model: {{preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32, dropout: 0.1}}
training: {{batch_size: 8, gradient_accumulation: 1, max_iters: {STEPS}, warmup_iters: 10, learning_rate: 0.01,
           eval_interval: {EVAL_INTERVAL}, sample_interval: {EVAL_INTERVAL}, sample_temperatures: [0.8],
           checkpoint_interval: {CHECKPOINT_INTERVAL}, log_interval: 1}}
data: {{tokenizer: char, bpe_vocab_size: 512}}
device: {{type: cpu, mixed_precision: false, threads: 1}}
"""
CHARACTERS = 40_000
HALF = 75  # the step at which the half one is stopped: after an evaluation, in the cool-down, between checkpoints
SLOW_SECONDS = 4.0  # that this step takes: time to be stopped in, and less than Ctrl-C's grace of 8 s


@dataclass(frozen=True)
class Reference:
    """What the uninterrupted run came to."""

    final_sha256: str
    best_sha256: str
    metrics: list[dict]  # the rows of its metrics.jsonl
    seconds: dict[str, float]  # from each template to the end, undisturbed


class Templates:
    """A campaign's folder: text.txt, tiny.yaml, and a workspace for each template that `make` has been called for."""

    def __init__(self, folder: Path, interrupted: threading.Event | None = None):
        self.folder, self._interrupted = folder, interrupted
        self.text, self.config = folder / "text.txt", folder / f"{MODEL}.yaml"

    def workspace(self, template: str) -> Path:
        """Where the workspace of a template lies; read it, copy it, never run in it."""
        return self.folder / "templates" / template

    def make(self, template: str, tell: Callable[[str], None] = print) -> Reference:
        """Make a template unless it is there, one process at a time; what the uninterrupted run came to."""
        self.folder.mkdir(parents=True, exist_ok=True)
        reference = Reference(**self._once("whole", self._make_whole, tell))
        if template != "half":
            return reference
        seconds = self._once("half", lambda: self._make_half(reference), tell)
        return replace(reference, seconds={**reference.seconds, **seconds})

    def _once(self, part: str, make: Callable[[], dict], tell: Callable[[str], None]) -> dict:
        """What `make` has returned, in this process or another: it is called by the first that needs it."""
        facts = self.folder / f"{part}.json"
        with FileLock(self.folder / f"{part}.lock"):
            if not facts.exists():
                tell(f"making the run that others are {'compared with' if part == 'whole' else 'copies of'} ...")
                durable.write_json(facts, make())
        return durable.read_json(facts)

    def _make_whole(self) -> dict:
        """The templates "fresh" and "whole"; the fields of a Reference."""
        shutil.rmtree(self.folder / "templates", ignore_errors=True)
        durable.write_text(self.text, _text(self.folder))
        durable.write_text(self.config, CONFIG)
        for template in ("fresh", "whole"):
            self.workspace(template).mkdir(parents=True)
        with closing(self._scene("whole")) as whole:
            seconds = {"fresh": whole.run().seconds, "whole": whole.run().seconds}
        shutil.copytree(whole.model, whole.model.parents[1] / "neighbour" / MODEL)
        return asdict(Reference(whole.final_sha256(), whole.best_sha256(), whole.metrics(), seconds))

    def _make_half(self, reference: Reference) -> dict[str, float]:
        """The template "half", of which one copy goes on to the end; the seconds that this takes."""
        for template in ("half", "continued"):
            shutil.rmtree(self.workspace(template), ignore_errors=True)
        shutil.copytree(self.workspace("whole"), self.workspace("half"))
        with closing(self._scene("half")) as half:
            _stop_in_the_middle(half)
        shutil.copytree(half.workspace, self.workspace("continued"))
        with closing(self._scene("continued")) as continued:
            seconds = continued.run().seconds
        if continued.final_sha256() != reference.final_sha256:
            raise NotSurvived("stopped and gone on with, and nothing else: other weights")
        return {"half": seconds}

    def _scene(self, template: str) -> Scene:
        from bench.faults.scene import Scene  # it copies templates, and they are made with its command

        patience = Patience(600.0, self._interrupted)
        return Scene(self, self.workspace(template), Reference("", "", [], {}), patience)


def _stop_in_the_middle(scene: Scene) -> None:
    """The finished model is trained anew, as --redo does, and Ctrl-C stops it while one of its steps takes long."""
    begun = scene.workspace.with_name("slow step begun")
    begun.unlink(missing_ok=True)
    slow = {"what": "hang", "how": "asleep", "seconds": SLOW_SECONDS, "at": "step", "step": HALF, "counter": str(begun)}
    going = scene.start("--redo", f"training.{MODEL}", env=injecting(slow))
    going.wait_for(begun.exists, f"step {HALF}")
    going.interrupt()
    result = going.wait()
    if result.code != 130 or scene.last_step() != HALF:
        raise NotSurvived(f"Ctrl-C: exit code {result.code}, step {scene.last_step()}: {result.output[-500:]}")


def _text(folder: Path) -> str:
    """Shakespeare, from the shared copy where there is one, else from the corpus that the project carries."""
    if (shared := shared_data()) is not None:
        return (shared / "tinyshakespeare.txt").read_text(encoding="utf-8")[:CHARACTERS]
    from nanogpt.data import sources

    return sources.write_embedded(folder).read_text(encoding="utf-8")[:CHARACTERS]


def shared_data() -> Path | None:
    """The folder with a copy of the text that a run would download, where there is one."""
    folder = Path(os.environ.get("NANOGPT_TEST_DATA", CHECKOUT.parent / "shared" / "data"))
    return folder if (folder / "tinyshakespeare.txt").is_file() else None


def rows_of(folder: Path) -> list[dict]:
    """metrics.jsonl of a model's folder."""
    return list(read_rows(folder / "metrics.jsonl"))
