"""What a training computes with: device, precision, threads, libraries; the same again when it goes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy
import torch

from nanogpt import device as devices
from nanogpt.config import DeviceConfig


@dataclass(frozen=True)
class Computing:
    """Everything beside settings and data that decides the bits of a result; part of each checkpoint's facts."""

    device: str
    precision: str  # of the products: "float32", "bfloat16" or "float16"
    newton_schulz: str  # of Muon's orthogonalisation
    threads: int
    torch: str
    numpy: str
    compiled: bool = False
    longest_window: int | None = None  # tokens; None: whole windows

    def differences(self, before: dict, **beside: object) -> dict[str, str]:
        """{name: "before -> now"} against what an earlier session's facts say.

        `beside`: what decides the bits, too, and may change while it trains. Blocks that are computed again give the
        same bits, and are none of it.
        """
        now = asdict(self) | beside
        return {key: f"{before[key]} -> {now[key]}" for key in now if before.get(key, now[key]) != now[key]}


def choose(wanted: DeviceConfig, before: dict) -> tuple[Computing, str]:
    """Settle device, precision and threads, and a warning ("" without one).

    What the settings leave open is as it was `before`, a checkpoint's facts ({} at a fresh start): a resumed run
    computes as the uninterrupted one.
    """
    chosen = devices.choose(wanted.type)
    device, same_device = chosen.device, before.get("device") == chosen.device
    devices.configure(device, wanted.threads or before.get("threads") or devices.physical_cores())
    native = native_precision(device)
    if wanted.mixed_precision == "auto":
        precision = before["precision"] if same_device else native
    else:
        precision = devices.precision_of(device, wanted.mixed_precision)
    newton_schulz = before["newton_schulz"] if same_device else native
    versions = str(torch.__version__), numpy.__version__
    return Computing(
        device, precision, newton_schulz, torch.get_num_threads(), *versions, wanted.compile, wanted.longest_window
    ), chosen.warning


def native_precision(device: str) -> str:
    """The fastest type that `device` multiplies in hardware; a fact, not a timing, so that two runs agree on it.

    MPS: float32, because opinions on bfloat16 differ by the chip (26 % less memory, 17 % slower to 31 % faster).
    """
    return "bfloat16" if device != "mps" and devices.native_bfloat16(device) else "float32"
