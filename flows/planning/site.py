"""Where a plan is made: the device that trains, its memory, and what is known of the text."""

from __future__ import annotations

from dataclasses import dataclass

from flows.planning.footprint import with_vocabulary
from nanogpt.config import Config
from nanogpt.machine import memory_bytes
from nanogpt.results.machine import DeviceProof

SHARE_OF_THE_MACHINE = 0.7  # that a training may take of a memory that everything else needs too
SHARE_OF_A_DEVICE = 0.9  # and of an accelerator's own, or of what Metal calls its working set


@dataclass(frozen=True)
class Site:
    """`memory_bytes`: all that `device` has; `alphabet_size`: different characters of the text; `by_torch`: the models
    whose trainings go on by torch's operators, as they began."""

    device: str
    memory_bytes: int
    alphabet_size: int
    by_torch: frozenset[str] = frozenset()

    @classmethod
    def of(cls, device: str, proof: DeviceProof, alphabet_size: int, by_torch: frozenset[str] = frozenset()) -> Site:
        """An accelerator's own memory as it was proved; the machine's as it is now, which may be more than then."""
        has_its_own = device != "cpu" and proof.device == device
        return cls(device, proof.memory_bytes if has_its_own else memory_bytes(), alphabet_size, by_torch)

    @property
    def training_bytes(self) -> int:
        """Bytes that a training may take."""
        share = SHARE_OF_THE_MACHINE if self.device == "cpu" else SHARE_OF_A_DEVICE
        return int(self.memory_bytes * share)

    def settle(self, config: Config) -> Config:
        """`config` on this device, with the vocabulary that its tokenizer will have, computed as its training is."""
        of_device: dict[str, object] = {"device.type": self.device}
        if config.name in self.by_torch:
            of_device["device.kernels"] = "torch"
        return with_vocabulary(config.with_changes(of_device), self.alphabet_size)
