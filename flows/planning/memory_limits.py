"""What ran out of memory on this machine before, in any run: the planner and every training start from what fitted.

The file is nanogpt.measure.memory_store's, state/memory.json of the workspace. What a person sets is stronger.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flows.machine import accelerator
from flows.planning import footprint as demands
from nanogpt.config import Config
from nanogpt.fit import Fit
from nanogpt.machine import memory_bytes
from nanogpt.measure.memory_store import STORE, MemoryStore

if TYPE_CHECKING:
    from flows.runner.run import Run

STEP_SPLIT = frozenset({"training.batch_size", "training.gradient_accumulation"})
HOW_IT_FITS = ("micro_batch", "gradient_checkpointing", "longest_window")


def settled(run: Run, config: Config) -> dict[str, Any] | None:
    """How `config` fitted: {micro_batch, gradient_checkpointing, longest_window, evidence, when}, or None.

    micro_batch None: it did not fit at all. Nothing is said where the machine has more memory than then, or the text
    has yet to be fetched. A micro-batch that a person has set is tried again in each run, but only once.
    """
    alphabet = run.ledger.facts("dataset.fetch").get("alphabet_size")
    if alphabet is None:
        return None
    limit = _store(run).limit(_on_its_device(run, config, alphabet), _memory(run, config))
    if limit is None:
        return None
    if run.options.pinned & STEP_SPLIT and not (run.started and limit.when >= run.started):
        return None
    fits = limit.fits or Fit(micro_batch=0)
    return {
        "micro_batch": limit.fits.micro_batch if limit.fits else None,
        "gradient_checkpointing": fits.gradient_checkpointing, "longest_window": fits.longest_window,
        "evidence": limit.evidence, "when": limit.when,
    }  # fmt: skip


def note(run: Run, config: Config, facts: dict[str, Any] | None, evidence: str) -> None:
    """Remember that `config` ran out of memory and goes on as `facts` say: micro_batch, gradient_checkpointing,
    longest_window, others are no matter; or None: it does not fit at all."""
    fits = Fit(**{key: facts[key] for key in HOW_IT_FITS if key in facts}) if facts else None
    alphabet = run.facts("dataset.fetch")["alphabet_size"]
    try:
        _store(run).note_limit(_on_its_device(run, config, alphabet), _memory(run, config), fits, evidence)
    except OSError as error:  # the training goes on; the next run finds out by itself
        run.tell(f"what fits into memory could not be remembered: {error}", "warning")


def as_settled(run: Run, rung: Config) -> Config:
    """`rung` as it fitted before: the same effective batch, in passes that have room."""
    known = settled(run, rung)
    if known is None or known["micro_batch"] is None:
        return rung
    sequences = rung.training.batch_size * rung.training.gradient_accumulation
    sizes = demands.halved(rung.training.batch_size, sequences)
    micro_batch = next(size for size in sizes if size <= max(1, known["micro_batch"]))
    device = {f"device.{key}": known[key] for key in HOW_IT_FITS[1:] if known[key]}
    asked_for = {f"device.{key}" for key in run.config.device.model_fields_set}
    settled_as = demands.split(rung, micro_batch).with_changes(
        {key: value for key, value in device.items() if key not in asked_for}
    )
    if settled_as != rung:
        run.tell(f"{rung.name}: {demands.how_it_fits(settled_as)}, as it fitted on {known['when']} ({STORE} in state/; "
                 "--set training.batch_size=N tries again)")  # fmt: skip
    return settled_as


def too_large(run: Run, rungs: Iterable[Config]) -> dict[str, str]:
    """{name: why} of those of `rungs` that did not fit before. Reads only."""
    found = {}
    for rung in rungs:
        known = settled(run, rung)
        if known and known["micro_batch"] is None:
            found[rung.name] = f"did not fit into memory on {known['when']}: {known['evidence']}"
    return found


def _store(run: Run) -> MemoryStore:
    return MemoryStore(run.paths.state.parent, lambda message: run.tell(message, "warning"))


def _on_its_device(run: Run, config: Config, alphabet: int) -> Config:
    return demands.with_vocabulary(config.with_changes({"device.type": _device(run, config)}), alphabet)


def _device(run: Run, config: Config) -> str:
    if accelerator.reason_given_up(run):
        return "cpu"
    if config.device.type != "auto":
        return config.device.type
    return run.ledger.facts("implementation.checks").get("device", "cpu")


def _memory(run: Run, config: Config) -> int:
    """All that there is for `config`, in bytes."""
    proved, device = run.ledger.facts("environment.device"), _device(run, config)
    return proved["memory_bytes"] if device != "cpu" and proved.get("device") == device else memory_bytes()
