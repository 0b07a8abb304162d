"""Checkpoints: folders that are whole and verified, or not there.

Protocol: temporary folder -> write and fsync each file -> manifest with their sha256 last -> rename -> fsync of the
parent. Loading checks every byte: torch and safetensors both load a flipped bit without a word. The sha256 is of what
was meant to be written, so that what memory or disk makes of it meanwhile is noticed too.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from nanogpt import durable
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.model.lora import adapter_state, plain_weights
from nanogpt.weights import reserve
from nanogpt.weights.manifest import MANIFEST as MANIFEST  # part of this module's interface, as the others
from nanogpt.weights.manifest import STATE, manifest_bytes, verified_files
from nanogpt.weights.manifest import WEIGHTS as WEIGHTS
from nanogpt.weights.manifest import finish_replacement as finish_replacement
from nanogpt.weights.manifest import read_manifest as read_manifest

BEFORE_COOL_DOWN = "before-cooldown"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, read into memory."""

    folder: Path
    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any]  # empty where only weights are kept (best/, final/)
    facts: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Weights and state together, as a training gave them to be saved."""
        return {"weights": self.weights, **self.state}


def save(
    folder: Path, model: nn.Module, *, step: int, facts: Mapping[str, Any], state: Mapping[str, Any] | None = None
) -> str:
    """save_weights() of what is trained in `model`."""
    return save_weights(folder, named_tensors(model), step=step, facts=facts, state=state)


def save_model(folder: Path, model: nn.Module, *, step: int, facts: Mapping[str, Any]) -> str:
    """save() for a model that is to be used: adapters are merged into its weights, and kept in its state too."""
    adapters = adapter_state(model)
    state = {"adapters": adapters} if adapters else None
    return save_weights(folder, plain_weights(model), step=step, facts=facts, state=state)


def save_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    step: int,
    facts: Mapping[str, Any],
    state: Mapping[str, Any] | None = None,
) -> str:
    """Write `folder` durably, in place of an older one of that name; returns the sha256 of the weights' file.

    facts: JSON for the manifest. state: what torch.load(weights_only=True) accepts.
    Raises OSError (ENOSPC when space is short), with what was there before untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    reserve.require(folder.parent, _bytes_of(weights) + _bytes_of(state))
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with _Written(temporary / WEIGHTS) as file:
            file.write(safetensors.torch.save(dict(weights), metadata={"format": "pt"}))
        files = {WEIGHTS: file.fingerprint()}
        if state is not None:
            with _Written(temporary / STATE) as file:  # by path, torch hides the errno of a full disk
                torch.save(dict(state), cast(BinaryIO, file))  # it takes what has write() and flush()
            files[STATE] = file.fingerprint()
        with _Written(temporary / MANIFEST) as file:
            file.write(manifest_bytes({"step": step, "facts": facts, "files": files}))
        _put_in_place(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return str(files[WEIGHTS]["sha256"])


def load(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises CorruptFileError when one byte of it is not as it was written."""
    manifest, data = read_manifest(folder), verified_files(folder)
    weights = safetensors.torch.load_file(data[WEIGHTS])
    state = torch.load(data[STATE], map_location="cpu", weights_only=True) if STATE in data else {}
    return Checkpoint(folder, manifest["step"], weights, state, manifest["facts"])


Notify = Callable[[Path, CorruptFileError], object]  # a bad checkpoint, and what is wrong with it


def load_newest(folder: Path, notify: Notify, interval: int = 1, at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint in `folder` that verifies, at a multiple of `interval` and no step beyond `at_most`.

    Each newer one that does not verify is renamed to *.bad and given to `notify`. None without any.
    """
    for path in reversed(list(steps_in(folder))):
        if step_of(path) % interval or (at_most is not None and step_of(path) > at_most):
            continue
        checkpoint = load_or_set_aside(path, notify)
        if checkpoint:
            return checkpoint
    return None


def load_or_set_aside(path: Path, notify: Notify) -> Checkpoint | None:
    """The checkpoint at `path`; None without one, or after a bad one was renamed to *.bad and given to `notify`."""
    finish_replacement(path)
    if not path.is_dir():
        return None
    try:
        return load(path)
    except CorruptFileError as error:
        durable.set_aside(path)
        notify(path, error)
        return None


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lives: folder/step-00000500."""
    return folder / f"step-{step:08d}"


def steps_in(folder: Path) -> Iterator[Path]:
    """The checkpoints of steps in `folder`, oldest first; unfinished and bad ones are not among them."""
    yield from sorted(path for path in folder.glob("step-*") if path.name[5:].isdigit() and path.is_dir())


def step_of(path: Path) -> int:
    """The step that a folder of step_folder() is named for."""
    return int(path.name.removeprefix("step-"))


def remove_after(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: another trajectory continues from here."""
    for path in steps_in(folder):
        if step_of(path) > step:
            shutil.rmtree(path)


def prune(folder: Path, keep: int, interval: int) -> None:
    """Remove all but the newest `keep` of the checkpoints at multiples of `interval`, and the newest of all.

    Those of an interruption lie between: a rewind never goes back to them, so that it goes to the same place whether
    the run was interrupted or not. Only until there are `keep` regular ones they make up the number: a training that
    takes a cool-down back begins with one of them. What a sudden end left half written goes too.
    """
    paths = list(steps_in(folder))
    regular = [path for path in paths if step_of(path) % interval == 0]
    others = [path for path in paths if path not in regular]
    missing = max(0, keep - len(regular))
    kept = {*paths[-1:], *regular[-keep:], *others[max(0, len(others) - missing) :]}
    for path in {*paths, *folder.glob(".step-*.tmp")} - kept:
        shutil.rmtree(path, ignore_errors=True)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every trained parameter once (a tied head is its embedding), contiguous on the CPU; frozen ones never change."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def put_weights(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy named_tensors() into `model`. Raises UserError naming what is missing, left over or of another shape."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    theirs, mine = ({name: tuple(tensor.shape) for name, tensor in side.items()} for side in (weights, parameters))
    differing = [name for name in sorted(theirs | mine) if theirs.get(name) != mine.get(name)]
    if differing:
        shapes = [f"{n} is {theirs.get(n, 'absent')} there, {mine.get(n, 'absent')} here" for n in differing]
        raise UserError(f"{where}: another architecture: {', '.join(shapes)}")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def random_state(device: str) -> dict[str, Any]:
    """The state of every random number generator, loadable with weights_only."""
    version, numbers, gauss = random.getstate()
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    state = {"python": (version, list(numbers), gauss), "numpy": numpy_state, "torch": torch.get_rng_state()}
    if device in ("cuda", "mps"):
        state[device] = getattr(torch, device).get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any], device: str) -> None:
    """Set every generator to what random_state() gave."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy_state = dict(state["numpy"])
    key = numpy_state["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    if device in state:
        getattr(torch, device).set_rng_state(state[device])


class _Written:
    """A file that is on the medium when the context ends, and knows the size and sha256 of what was written to it."""

    def __init__(self, path: Path):
        self._file, self._sha256, self._size = open(path, "wb"), hashlib.sha256(), 0  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                durable.fsync_file(self._file)

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self._size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def fingerprint(self) -> dict[str, Any]:
        return {"size": self._size, "sha256": self._sha256.hexdigest()}


def _put_in_place(temporary: Path, folder: Path) -> None:
    durable.fsync_folder(temporary)
    finish_replacement(folder)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():  # a folder cannot be renamed over another; finish_replacement() mends a cut in between
        os.replace(folder, old)
    os.replace(temporary, folder)
    durable.fsync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _bytes_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_bytes_of(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_bytes_of(part) for part in value)
    return 0
