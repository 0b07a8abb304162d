"""What a worker process is asked for in phases 3 and 6, answered at once, after the faults that a file names.

The file at $FAULTS has a line for each: the call, and the signal that its process dies by or the error that it raises.
"""

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

from nanogpt.config import Config
from nanogpt.process.worker import Worker
from nanogpt.results.evaluation import Evaluation, ModelFigures
from nanogpt.results.speed import CompiledSpeed, FastestMicroBatch, Rehearsal, StepSpeed
from nanogpt.weights.reserve import NoRoomError
from tests.flows.planning.machines import Machine


class FaultyWorker(Worker):
    """A real process, whose calls come here."""

    def call(self, target: str, **named: Any) -> Any:
        return super().call(f"{__name__}:{target.partition(':')[2]}", **named)


def choose_precision_and_threads(config: dict[str, Any], device: str, seconds: float) -> StepSpeed:
    meet_a_fault("choose")
    return Machine().choose_precision_and_threads(Config.model_validate(config), device, seconds)


def rehearse(config: dict[str, Any], device: str, folder: str, seconds: float) -> Rehearsal:
    meet_a_fault("rehearse", Path(folder))
    return Machine().rehearse(Config.model_validate(config), device, folder, seconds)


def find_for(config: dict[str, Any], folder: str, seconds: float) -> FastestMicroBatch:
    meet_a_fault("search", Path(folder))
    return Machine(fastest=2).find_for(Config.model_validate(config), folder, seconds)


def compare_compiled(config: dict[str, Any], device: str, seconds: float) -> CompiledSpeed:
    return Machine().compare_compiled(Config.model_validate(config), device, seconds)


def summarise(device: str, model_folder: Path, data_folder: Path, with_nanogpts_measure: bool) -> ModelFigures:
    meet_a_fault("summarise")
    figures = Evaluation(loss=1.5, perplexity=4.5, bits_per_byte=2.1, tokens=1000, window=64)
    return ModelFigures(figures, figures, nanogpt_loss=None, parameters=1, tokenizer="char", block_size=64,
                        peak_memory_bytes=1)  # fmt: skip


def meet_a_fault(call: str, folder: Path = Path("/")) -> None:
    """The next fault of `call`, if any is left."""
    file = Path(os.environ["FAULTS"])
    faults = file.read_text().splitlines()
    mine = next((fault for fault in faults if fault.startswith(f"{call} ")), None)
    if mine is None:
        return
    faults.remove(mine)
    file.write_text("".join(f"{fault}\n" for fault in faults))
    kind = mine.partition(" ")[2]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.safetensors"))
    if kind == "ENOSPC":
        raise full
    if kind == "ENOSPC in a library":
        raise RuntimeError("file write failed") from full
    if kind == "no room for a checkpoint":
        raise NoRoomError(folder, 1000, free=0)
    os.kill(os.getpid(), signal.Signals[kind])
    time.sleep(60)
