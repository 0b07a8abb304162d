"""Progress markers: what ran, on which inputs, with which outputs; run or keep, and why.

A marker (markers.py) is written when a step's work starts and again when it ends. The settings, the upstream steps'
output digests and the digests of the declared code are taken before the work, so a change made meanwhile shows as a
change next time. A step is kept only if all of them are still the same and every output is there with its size and
sha256. An upstream step that ran again but gave the same output changes nothing for those after it.

Nothing here imports torch, prefect or git: `--status` reads markers in milliseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from flows.ledger import outputs
from flows.ledger.code_digests import CodeDigests
from flows.ledger.facts import Key, Remedy
from flows.ledger.markers import (
    FAILED,
    FINISHED,
    STARTED,
    Marker,
    MarkerFiles,
    as_previous,
    history_after,
    last_finished,
    now,
)
from flows.ledger.steps import Json, StepResult, StepSpec
from nanogpt import durable
from nanogpt.records import from_json, to_json
from nanogpt.units import chosen_duration

F = TypeVar("F")
AnyStep = StepSpec[Any]


@dataclass(frozen=True)
class Decision:
    """Whether a finished step is kept, with a reason that a person understands."""

    keep: bool
    reason: str
    damage: str | None = None  # what is not as this step left it; kept all the same, `mend` puts it right


class Ledger:
    """The markers of one run.

    `decide` and the other questions only read, so `--status` and `--plan` may ask while the run is under way. One
    process at a time may `start`; the steps of one process may run in several threads.
    """

    def __init__(self, folder: Path, workspace: Path, checkout: Path, versions: dict[str, str] | None = None):
        self.workspace = Path(workspace).resolve()
        self._files = MarkerFiles(folder)
        self._code = CodeDigests(Path(checkout).resolve())
        self._versions = versions or {}
        self._running: dict[str, Marker] = {}

    # Questions

    def decide(self, step: AnyStep, settings: Json, redo: bool = False) -> Decision:
        """Keep `step` or run it, and why. Raises FileNotFoundError if it declares code that does not exist."""
        marker, damage = self._files.read(step.name)
        if redo:
            return Decision(False, "asked for (--redo)")
        if marker is None:
            return Decision(False, damage or "never run", damage=damage or None)
        changed = self._changes(step, settings, marker)
        if marker.state == STARTED:
            stopped = f"interrupted at {self._files.last_sign_of_life(marker)[:19]}"
            return Decision(False, "; ".join([stopped, *changed]))
        if marker.state == FAILED:
            stopped = f"failed at {marker.failed_at[:19]}: {marker.cause}"
            return Decision(False, "; ".join([stopped, *changed]))
        if changed:
            return Decision(False, "; ".join(changed))
        older = self._code.changed(step.code, marker.code)
        if older and not step.costly:
            return Decision(False, f"code of {_some(older)} changed")
        if unreadable := _unreadable(step, marker):
            return Decision(False, f"its facts are of another version ({unreadable})")
        found = outputs.damage(marker.outputs, self.workspace)
        if found and not (step.decides and self._has_copies(marker)):
            return Decision(False, found, damage=found)
        damage = "; ".join(filter(None, [damage, found]))
        finished = f"finished {marker.finished_at[:16]}"
        if marker.left_out:
            finished = f"left out {marker.finished_at[:16]}: {marker.left_out}"
        if older:
            reason = f"made by older code of {_some(older)}; --redo {step.name} to run it again"
        elif damage:
            reason = f"{finished}; {damage}, and is put back from its copy"
        else:
            reason = f"{finished}, inputs and outputs unchanged"
        return Decision(True, reason, damage=damage or None)

    def marker(self, name: str) -> Marker | None:
        """The marker of a step as it stands, or None if there is none that can be believed."""
        return self._files.read(name)[0]

    def facts(self, key: Key[F]) -> F | None:
        """The facts of a finished step; None for any other, and for those of another version."""
        if (marker := self._finished(key.step)) is None:
            return None
        try:
            return from_json(key.kind, marker.facts)
        except ValueError:
            return None

    def finished_before(self, name: str) -> Marker | None:
        """The newest finished marker of a step, also while it runs again."""
        return last_finished(self.marker(name))

    def code_of(self, step: AnyStep) -> dict[str, str]:
        """Digests of the code that a step declares, as its marker would record them now."""
        return self._code.before_work(step.code)

    def output_digest(self, name: str) -> str | None:
        """What steps after a finished one depend on; None for any other."""
        marker = self._finished(name)
        return marker.output_digest if marker else None

    def damage(self, name: str) -> str | None:
        """What is not as a finished step left it."""
        marker = self._finished(name)
        return outputs.damage(marker.outputs, self.workspace) if marker else None

    # Records

    def start(self, step: AnyStep, settings: Json, reason: str) -> None:
        """Record that the work begins, with all that it depends on as it is now."""
        before, damage = self._files.read(step.name)
        if damage:
            self._files.set_aside(step.name)
        self._unblock(before)
        marker = Marker(
            step=step.name,
            title=step.title,
            state=STARTED,
            reason=reason,
            started_at=now(),
            attempts=before.attempts + 1 if before and before.state != FINISHED else 1,
            settings=_plain(settings),
            inputs=self._inputs(step),
            code=self._code.before_work(step.code),
            versions=self._versions,
            history=history_after(before),
            previous=as_previous(before),
        )
        self._files.write(marker)
        self._running[step.name] = marker

    def mend(self, step: AnyStep) -> None:
        """Put right what is damaged of a step that is kept all the same: its marker, and the files that it decided."""
        marker, damage = self._files.read(step.name)
        if marker is None:
            return
        if damage:
            self._files.set_aside(step.name)
            self._files.write(marker)
        for output in marker.outputs if step.decides else []:
            if outputs.damage([output], self.workspace):
                path = self.workspace / output.path
                durable.unblock(path)
                durable.write_bytes(path, (self._files.copies / output.path).read_bytes())

    def pulse(self) -> None:
        """Note that the started steps are alive: an interrupted one then knows when it was last seen so."""
        for name in list(self._running):
            try:
                self._files.touch(name)
            except FileNotFoundError:
                continue  # finished a moment ago in another thread, or its folder was taken away

    def finish(
        self,
        step: StepSpec[F],
        result: StepResult[F],
        seconds: float,
        remedies: Iterable[Remedy] = (),
        commit: str | None = None,
    ) -> None:
        """Record the work as done. Raises OSError for a promised output that cannot be read, ValueError for an
        output outside the workspace and for facts that are not JSON; the step then is not done."""
        files = outputs.describe(result.files, self.workspace)
        facts = _plain(to_json(result.facts))
        identity = result.identity
        if identity is None:  # sparse: a fact that a later version adds is no other output while it has its default
            telling = to_json(result.facts, sparse=True)
            identity = {"files": {file.path: file.sha256 for file in files}, "facts": telling}
        finished = replace(
            self._running[step.name],
            state=FINISHED,
            finished_at=now(),
            seconds=round(seconds, 3),
            remedies=list(remedies),
            commit=commit,
            outputs=files,
            facts=facts,
            output_digest=durable.digest(_plain(identity)),
            left_out=result.left_out,
        )
        for file in files if step.decides else []:  # before the marker, which says that they are there
            durable.write_bytes(self._files.copies / file.path, (self.workspace / file.path).read_bytes())
        self._end(finished)

    def fail(self, step: AnyStep, cause: str, seconds: float = 0.0, remedies: Iterable[Remedy] = ()) -> None:
        """Record that the work ended without a result, and why; nothing when the end came before `start` had ended."""
        if (running := self._running.get(step.name)) is None:
            return
        words = " ".join(str(cause).split()).encode("utf-8", "replace").decode()
        self._end(
            replace(running, state=FAILED, failed_at=now(), cause=words, seconds=round(seconds, 3),
                    remedies=list(remedies))
        )  # fmt: skip

    def _end(self, marker: Marker) -> None:
        self._files.write(marker)
        del self._running[marker.step]

    def _has_copies(self, marker: Marker) -> bool:
        return outputs.damage(marker.outputs, self._files.copies) is None

    def _unblock(self, marker: Marker | None) -> None:
        """Set aside what stands where this step left plain files before."""
        finished = last_finished(marker)
        for output in finished.outputs if finished else []:
            durable.unblock(self.workspace / output.path)

    # What steps depend on

    def _finished(self, name: str) -> Marker | None:
        marker = self.marker(name)
        return marker if marker and marker.state == FINISHED else None

    def _changes(self, step: AnyStep, settings: Json, marker: Marker) -> list[str]:
        of_settings = settings_changes(marker.settings, _plain(settings))
        of_inputs = self._input_changes(marker.inputs, self._inputs(step))
        return [_some(changes) for changes in (of_settings, of_inputs) if changes]

    def _inputs(self, step: AnyStep) -> dict[str, str]:
        return {name: self._input(name) for name in step.needs}

    def _input(self, name: str) -> str:
        """What a step after `name` depends on: its output, or why it has none (a report made without
        it is made again when that changes)."""
        marker = self.marker(name)
        if marker is None:
            return "never run"
        if marker.state == FINISHED:
            return marker.output_digest
        return f"failed: {marker.cause}" if marker.state == FAILED else "not finished"

    def _input_changes(self, old: dict[str, str], new: dict[str, str]) -> list[str]:
        changes = [f"no longer needs {name}" for name in old if name not in new]
        for name in new:
            marker = self.marker(name)
            title = marker.title if marker else name
            if name not in old:
                changes.append(f"now needs {name}")
            elif old[name] == new[name]:
                continue
            elif marker is None or marker.state != FINISHED:
                changes.append(f"{title} has not finished")
            elif not re.fullmatch("[0-9a-f]{64}", old[name]):
                changes.append(f"{title} has finished since")
            else:
                changes.append(f"{title} gave other output")
        return changes


def settings_changes(old: Json, new: Json) -> list[str]:
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
            was, now = _shown(before[path], key), _shown(after[path], key)
            changes.append(f"{key} {was} -> {now}" if was != now else f"{key} changed")
    return changes


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict) and (value or not path):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    else:
        yield path, value


def _shown(value: Any, key: str = "") -> str:
    if key == "budget" and isinstance(value, int | float):
        return chosen_duration(value)
    text = " ".join(value.split()) if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:39] + "…"


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:2]) + (f" and {len(items) - 2} more" if len(items) > 2 else "")


def _plain(value: Any) -> Any:
    """`value` as it comes back from JSON, apart from the caller's own objects. Raises TypeError, ValueError."""
    return json.loads(json.dumps(value, allow_nan=False))


def _unreadable(step: AnyStep, marker: Marker) -> str:
    """Why the facts of `marker` are none of the step's; "" if they are."""
    try:
        from_json(step.key.kind, marker.facts)
    except ValueError as error:
        return str(error)
    return ""
