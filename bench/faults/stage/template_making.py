"""Makes the templates that each kind of fault gets a copy of, once for a campaign.

They are made in two parts, each by whoever needs it first: a finished run, and from that one a run stopped in the
middle.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.faults.stage.finding import NotSurvived
from bench.faults.stage.injection import injecting
from bench.faults.stage.process import Patience
from bench.faults.stage.scene import Scene
from bench.faults.stage.templates import CONFIG, HALF, MODEL, SLOW_SECONDS, Reference, Templates, shared_data
from nanogpt import durable
from nanogpt.sources import embedded

CHARACTERS = 40_000


class TemplateMaker:
    """Makes templates in the folder of `templates`, until `interrupted`."""

    def __init__(self, templates: Templates, interrupted: threading.Event, tell: Callable[[str], None] = print):
        self._templates, self._interrupted, self._tell = templates, interrupted, tell

    def make(self, template: str) -> Reference:
        """Make a template unless it is there, one process at a time; what the uninterrupted run came to."""
        self._templates.folder.mkdir(parents=True, exist_ok=True)
        reference = Reference(**self._once("whole", self._make_whole))
        if template != "half":
            return reference
        seconds = self._once("half", lambda: self._make_half(reference))
        return replace(reference, seconds={**reference.seconds, **seconds})

    def _once(self, part: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` has returned, in this process or another: the first that needs it calls it."""
        facts = self._templates.folder / f"{part}.json"
        with FileLock(facts.with_suffix(".lock")):
            if not facts.exists():
                self._tell(f"making the run that others are {'compared with' if part == 'whole' else 'copies of'} ...")
                durable.write_json(facts, make())
        found: dict[str, Any] = durable.read_json(facts)
        return found

    def _make_whole(self) -> dict[str, Any]:
        """The templates "fresh" and "whole"; the fields of a Reference."""
        templates = self._templates
        shutil.rmtree(templates.folder / "templates", ignore_errors=True)
        durable.write_text(templates.text, _text(templates.folder))
        durable.write_text(templates.config, CONFIG)
        for template in ("fresh", "whole"):
            templates.workspace(template).mkdir(parents=True)
        with closing(self._scene("whole")) as whole:
            seconds = {"fresh": whole.run().seconds, "whole": whole.run().seconds}
        shutil.copytree(whole.model, whole.model.parents[1] / "neighbour" / MODEL)
        return asdict(Reference(whole.final_sha256(), whole.best_sha256(), whole.metrics(), seconds))

    def _make_half(self, reference: Reference) -> dict[str, float]:
        """The template "half", of which one copy runs to the end; the seconds that this takes."""
        workspace = self._templates.workspace
        for template in ("half", "continued"):
            shutil.rmtree(workspace(template), ignore_errors=True)
        shutil.copytree(workspace("whole"), workspace("half"))
        with closing(self._scene("half")) as half:
            _stop_in_the_middle(half)
        shutil.copytree(workspace("half"), workspace("continued"))
        with closing(self._scene("continued")) as continued:
            seconds = continued.run().seconds
        if continued.final_sha256() != reference.final_sha256:
            raise NotSurvived("stopped and resumed, and nothing else: other weights")
        return {"half": seconds}

    def _scene(self, template: str) -> Scene:
        patience = Patience(600.0, self._interrupted)
        return Scene(self._templates, self._templates.workspace(template), Reference("", "", [], {}), patience)


def _stop_in_the_middle(scene: Scene) -> None:
    """The finished model is trained anew, as --redo does, and Ctrl-C stops it while its next step takes long: that one
    is dropped."""
    begun = scene.workspace.with_name("slow step begun")
    begun.unlink(missing_ok=True)
    slow = {"what": "hang", "how": "asleep", "seconds": SLOW_SECONDS, "at": "step", "step": HALF + 1,
            "counter": str(begun)}  # fmt: skip
    process = scene.start("--redo", f"training.{MODEL}", env=injecting(slow))
    process.wait_for(begun.exists, f"step {HALF + 1}")
    process.interrupt()
    result = process.wait()
    if result.code != 130 or scene.last_step() != HALF:
        raise NotSurvived(f"Ctrl-C: exit code {result.code}, step {scene.last_step()}: {result.output[-500:]}")


def _text(folder: Path) -> str:
    """Shakespeare, from the shared copy where there is one, else from the corpus that the project carries."""
    shared = shared_data()
    text = shared / "tinyshakespeare.txt" if shared else embedded.write_embedded(folder)
    return text.read_text(encoding="utf-8")[:CHARACTERS]
