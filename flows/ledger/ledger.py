"""Progress markers: what ran, on which inputs, with which outputs; run or keep, and why.

A marker (markers.py) is written when a step's work starts and again when it ends. The settings, the upstream steps'
output digests and the digests of the declared code are taken before the work, so a change made while it goes
on shows as a change next time. A step is kept only if all of them are still the same and every output is there with
its size and sha256. An upstream step that ran again but gave the same output changes nothing for those after it.

Nothing here imports torch, prefect or git: `--status` reads markers in milliseconds.
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.ledger import outputs
from flows.ledger.code_digests import CodeDigests
from flows.ledger.markers import FAILED, FINISHED, STARTED, MarkerFiles, history_after, last_finished, now
from nanogpt import durable


def nothing(_run: Any) -> dict:
    """The settings of a step that depends on none."""
    return {}


@dataclass(frozen=True)
class Step:
    """One thing a run does, and all that its result depends on."""

    name: str  # "dataset.tokenise"
    title: str  # "Tokenise the text", shown to people
    work: Callable[[Any], Outcome]  # gets the flows.runner.run.Run
    settings: Callable[[Any], dict] = nothing  # Run -> the slice of configuration it depends on, nested JSON
    needs: tuple[str, ...] = ()  # upstream step names; their OUTPUT digests count
    code: tuple[str, ...] = ()  # module names, or files and folders relative to the checkout
    costly: bool = False  # a change of code alone keeps it, marked "made by older code"
    regardless: bool = False  # does its work with whatever of `needs` is there: a report is always made
    decides: bool = False  # might decide otherwise another time: its files are kept twice, and put back when damaged


@dataclass
class Outcome:
    """What a step's work returns."""

    files: list[Path] = field(default_factory=list)  # outputs, under the workspace
    facts: dict = field(default_factory=dict)  # JSON: what later steps and the report read
    identity: Any = None  # what downstream depends on; default: the files' sha256 and the facts


@dataclass(frozen=True)
class Decision:
    """Whether a finished step is kept, with a reason that a person understands."""

    keep: bool
    reason: str
    marker: dict | None
    older_code: bool = False
    damage: str | None = None  # what is not as this step left it; kept all the same, `mend` puts it right


class Ledger:
    """The markers of one run.

    `decide` and the other questions only read, so `--status` and `--plan` may ask while a run goes on. One process
    at a time may `start`; the steps of one process may run in several threads.
    """

    def __init__(self, folder: Path, workspace: Path, checkout: Path):
        self.workspace = Path(workspace).resolve()
        self._files = MarkerFiles(folder)
        self._code = CodeDigests(Path(checkout).resolve())
        self._running: dict[str, dict] = {}

    # Questions

    def decide(self, step: Step, settings: dict, redo: bool = False) -> Decision:
        """Keep `step` or run it, and why. Raises FileNotFoundError if it declares code that does not exist."""
        marker, damage = self._files.read(step.name)
        if redo:
            return Decision(False, "asked for (--redo)", marker)
        if marker is None:
            return Decision(False, damage or "never run", None, damage=damage or None)
        changed = self._changes(step, settings, marker)
        if marker["state"] == STARTED:
            stopped = f"interrupted at {self._files.last_sign_of_life(marker)[:19]}"
            return Decision(False, "; ".join([stopped, *changed]), marker)
        if marker["state"] == FAILED:
            stopped = f"failed at {marker['failed_at'][:19]}: {marker['cause']}"
            return Decision(False, "; ".join([stopped, *changed]), marker)
        if changed:
            return Decision(False, "; ".join(changed), marker)
        older = self._code.changed(step.code, marker["code"])
        if older and not step.costly:
            return Decision(False, f"code of {_some(older)} changed", marker)
        found = outputs.damage(marker["outputs"], self.workspace)
        if found and not (step.decides and self._has_copies(marker)):
            return Decision(False, found, marker, damage=found)
        damage = "; ".join(filter(None, [damage, found])) or None
        if older:
            reason = f"made by older code of {_some(older)}; --redo {step.name} to run it again"
            return Decision(True, reason, marker, older_code=True, damage=damage)
        reason = f"finished {marker['finished_at'][:16]}, inputs and outputs unchanged"
        if damage:
            reason = f"finished {marker['finished_at'][:16]}; {damage}, and is put back from its copy"
        return Decision(True, reason, marker, damage=damage)

    def marker(self, name: str) -> dict | None:
        """The marker of a step as it stands, or None if there is none that can be believed."""
        return self._files.read(name)[0]

    def facts(self, name: str) -> dict:
        """The facts of a finished step; empty for any other."""
        return self._finished(name).get("facts", {})

    def output_digest(self, name: str) -> str | None:
        """What steps after a finished one depend on; None for any other."""
        return self._finished(name).get("output_digest")

    def damage(self, name: str) -> str | None:
        """What is not as a finished step left it."""
        return outputs.damage(self._finished(name).get("outputs", []), self.workspace)

    # Records

    def start(self, step: Step, settings: dict, reason: str) -> None:
        """Record that the work begins, with all that it depends on as it is now."""
        before, damage = self._files.read(step.name)
        if damage:
            self._files.set_aside(step.name)
        self._unblock(before)
        record = {
            "step": step.name,
            "title": step.title,
            "state": STARTED,
            "reason": reason,
            "started_at": now(),
            "attempts": before["attempts"] + 1 if before and before["state"] != FINISHED else 1,
            "settings": _plain(settings),
            "inputs": self._inputs(step),
            "code": self._code.before_work(step.code),
            "versions": _versions(),
            "history": history_after(before),
            "previous": last_finished(before),
        }
        self._files.write(record)
        self._running[step.name] = record

    def mend(self, step: Step) -> None:
        """Put right what is damaged of a step that is kept all the same: its marker, and the files that it decided."""
        marker, damage = self._files.read(step.name)
        if damage:
            self._files.set_aside(step.name)
            self._files.write(marker)
        for output in marker["outputs"] if step.decides else []:
            if outputs.damage([output], self.workspace):
                path = self.workspace / output["path"]
                durable.unblock(path)
                durable.write_bytes(path, (self._files.copies / output["path"]).read_bytes())

    def pulse(self) -> None:
        """Note that the started steps are alive: an interrupted one then knows when it was last seen so."""
        for name in list(self._running):
            try:
                self._files.touch(name)
            except FileNotFoundError:
                continue  # finished a moment ago in another thread, or its folder was taken away

    def finish(
        self, step: Step, outcome: Outcome, seconds: float, remedies: Iterable = (), commit: str | None = None
    ) -> None:
        """Record the work as done. Raises OSError for a promised output that cannot be read, ValueError for an
        output outside the workspace and for facts that are not JSON; the step then is not done."""
        files = outputs.describe(outcome.files, self.workspace)
        facts = _plain(outcome.facts)
        identity = outcome.identity
        if identity is None:
            identity = {"files": {file["path"]: file["sha256"] for file in files}, "facts": facts}
        self._end(
            step,
            state=FINISHED,
            finished_at=now(),
            seconds=round(seconds, 3),
            remedies=_plain(list(remedies)),
            commit=commit,
            outputs=files,
            facts=facts,
            output_digest=durable.digest(_plain(identity)),
        )
        for file in files if step.decides else []:
            durable.write_bytes(self._files.copies / file["path"], (self.workspace / file["path"]).read_bytes())

    def fail(self, step: Step, cause: str, seconds: float = 0.0, remedies: Iterable = ()) -> None:
        """Record that the work ended without a result, and why; nothing when the end came before `start` had ended."""
        if step.name not in self._running:
            return
        self._end(
            step,
            state=FAILED,
            failed_at=now(),
            cause=" ".join(str(cause).split()).encode("utf-8", "replace").decode(),
            seconds=round(seconds, 3),
            remedies=_plain(list(remedies)),
        )

    def _end(self, step: Step, **fields: Any) -> None:
        self._files.write({**self._running[step.name], **fields})
        del self._running[step.name]

    def _has_copies(self, marker: dict) -> bool:
        return outputs.damage(marker["outputs"], self._files.copies) is None

    def _unblock(self, marker: dict | None) -> None:
        """Set aside the folders that stand where this step left files before."""
        for output in (last_finished(marker) or {}).get("outputs", []):
            durable.unblock(self.workspace / output["path"])

    # What steps depend on

    def _finished(self, name: str) -> dict:
        marker = self.marker(name)
        return marker if marker and marker["state"] == FINISHED else {}

    def _changes(self, step: Step, settings: dict, marker: dict) -> list[str]:
        of_settings = settings_changes(marker["settings"], _plain(settings))
        of_inputs = self._input_changes(marker["inputs"], self._inputs(step))
        return [_some(changes) for changes in (of_settings, of_inputs) if changes]

    def _inputs(self, step: Step) -> dict[str, str]:
        return {name: self._input(name) for name in step.needs}

    def _input(self, name: str) -> str:
        """What a step after `name` depends on: its output, or the words why there is none (a report made
        without it is made again when those change)."""
        marker = self.marker(name)
        if marker is None:
            return "never run"
        if marker["state"] == FINISHED:
            return marker["output_digest"]
        return f"failed: {marker['cause']}" if marker["state"] == FAILED else "not finished"

    def _input_changes(self, old: dict[str, str], new: dict[str, str]) -> list[str]:
        changes = [f"no longer needs {name}" for name in old if name not in new]
        for name in new:
            marker = self.marker(name) or {"title": name, "state": None}
            if name not in old:
                changes.append(f"now needs {name}")
            elif old[name] != new[name] and marker["state"] != FINISHED:
                changes.append(f"{marker['title']} has not finished")
            elif old[name] != new[name] and not re.fullmatch("[0-9a-f]{64}", old[name]):
                changes.append(f"{marker['title']} has finished since")
            elif old[name] != new[name]:
                changes.append(f"{marker['title']} gave other output")
        return changes


def settings_changes(old: dict, new: dict) -> list[str]:
    """Each leaf that differs between two nested settings, as `training.max_iters 2000 -> 5000`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    changes = []
    for path in dict.fromkeys([*after, *before]):
        key = ".".join(map(str, path))
        if path not in before:
            changes.append(f"{key} added ({_shown(after[path])})")
        elif path not in after:
            changes.append(f"{key} removed (was {_shown(before[path])})")
        # Compared as JSON text: to Python, 1, 1.0 and True are equal.
        elif json.dumps(before[path]) != json.dumps(after[path]):
            was, now = _shown(before[path]), _shown(after[path])
            changes.append(f"{key} {was} -> {now}" if was != now else f"{key} changed")
    return changes


def _leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    else:
        yield path, value


def _shown(value: Any) -> str:
    text = " ".join(value.split()) if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _some(items: list[str]) -> str:
    return ", ".join(items[:2]) + (f" and {len(items) - 2} more" if len(items) > 2 else "")


def _plain(value: Any) -> Any:
    """`value` as it comes back from JSON, apart from the caller's own objects. Raises TypeError, ValueError."""
    return json.loads(json.dumps(value, allow_nan=False))


@functools.cache
def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for package in ("torch", "prefect"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
