"""What this machine's memory has held, and what was too much for it: one file for all runs and commands of a workspace.

    {"limits": {key: {"fits": {"micro_batch", "gradient_checkpointing", "longest_window"} or null, "evidence", "when",
                      "memory_bytes", "model", "device", "precision"}},
     "fastest": {key: a nanogpt.results.speed.FastestMicroBatch}, "digest": of the two}

A limit is of a model's shape on a device in a precision, and of the memory that there was: it does not hold with more.
One bit flipped in a longest_window would stop every training of its shape: hence the digest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanogpt import durable
from nanogpt.config import Config
from nanogpt.fit import Fit
from nanogpt.records import from_json, to_json
from nanogpt.results.speed import FastestMicroBatch

STORE = "memory.json"
NOTHING_FITS = (0.0, False, 0)  # tighter than any Fit.memory_rank
SECTIONS = ("limits", "fastest")
SAME_MEMORY = 1.02  # what a system calls its memory differs a little from boot to boot
NOT_OF_THE_SHAPE = {"preset", "dropout"}  # of the model's settings: the planner chooses dropout late
KEPT_OF_A_FIT = ("micro_batch", "gradient_checkpointing", "longest_window")  # device and precision are the row's
Known = dict[str, dict[str, Any]]  # the rows of each section, by key


@dataclass(frozen=True)
class Limit:
    """What was found when memory ran out: what fits since then, or None where nothing did."""

    fits: Fit | None
    evidence: str
    when: str


class MemoryStore:
    """The file in `folder`. One that is not what was written is set aside, reported by `notify`, and counts as none."""

    def __init__(self, folder: Path, notify: Callable[[str], None]):
        self.path, self.notify = Path(folder) / STORE, notify

    def limit(self, config: Config, memory_bytes: int) -> Limit | None:
        """The tightest limit that holds for `config`, vocabulary and device known, with `memory_bytes` in all.

        What was too much in half precision is so in float32 as well, not the other way round.
        """
        rows = self._read()["limits"]
        found = [rows[key] for key in (_key(config, half) for half in _precisions(config)) if key in rows]
        limits = [_limit_of(row) for row in found if memory_bytes <= SAME_MEMORY * row["memory_bytes"]]
        return min(limits, key=lambda limit: limit.fits.memory_rank if limit.fits else NOTHING_FITS, default=None)

    def note_limit(self, config: Config, memory_bytes: int, fits: Fit | None, evidence: str) -> None:
        """Remember that `config` had to become `fits`, or that nothing fits. Raises OSError."""
        precision = _precisions(config)[-1]
        row = {
            "fits": {key: getattr(fits, key) for key in KEPT_OF_A_FIT} if fits else None,
            "evidence": evidence,
            "when": time.strftime("%Y-%m-%d %H:%M:%S"),
            "memory_bytes": memory_bytes,
            "model": config.name,
            "device": config.device.type,
            "precision": precision,
        }
        self._put("limits", _key(config, precision), row)

    def fastest(self, key: str) -> FastestMicroBatch | None:
        """What note_fastest() was given."""
        row = self._read()["fastest"].get(key)
        return _fastest_of(row) if row else None

    def note_fastest(self, key: str, found: FastestMicroBatch) -> None:
        """Remember what was found for `key`. Raises OSError."""
        self._put("fastest", key, to_json(found))

    def _put(self, section: str, key: str, row: dict[str, Any]) -> None:
        known = self._read()
        known = {**known, section: {**known[section], key: row}}
        durable.write_json(self.path, {**known, "digest": durable.digest(known)})

    def _read(self) -> Known:
        try:
            written: dict[str, Any] = durable.read_json(self.path)
            digest = written.pop("digest", None)
            known: Known = written
            if digest not in (None, durable.digest(known)):  # None: written before there was one
                raise ValueError("its digest differs")
            if sorted(known) != sorted(SECTIONS):
                raise ValueError
            for row in known["limits"].values():
                _limit_of(row)
                float(row["memory_bytes"])
            for row in known["fastest"].values():
                _fastest_of(row)
        except FileNotFoundError:
            return {section: {} for section in SECTIONS}
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            try:
                durable.set_aside(self.path)
                done = "it is set aside"
            except OSError:  # another run was quicker, or the folder cannot be written
                done = "it counts for nothing"
            self.notify(f"{self.path} is not what was written ({error}); {done}")
            return {section: {} for section in SECTIONS}
        return known


def _limit_of(row: dict[str, Any]) -> Limit:
    return Limit(from_json(Fit, row["fits"]) if row["fits"] else None, row["evidence"], row["when"])


def _fastest_of(row: dict[str, Any]) -> FastestMicroBatch:
    return from_json(FastestMicroBatch, {**row, "kept": True})


def _precisions(config: Config) -> list[str]:
    """Those whose limits hold for `config`, its own last; while it is open ("auto"), half precision is the least."""
    return ["half", "float32"] if config.device.mixed_precision is False else ["half"]


def _key(config: Config, precision: str) -> str:
    return durable.digest(
        {
            "model": config.model.model_dump(exclude=NOT_OF_THE_SHAPE),
            "device": config.device.type,
            "precision": precision,
            "training": config.training.model_dump(include={"optimizer", "weight_average", "lora_rank"}),
        }
    )
