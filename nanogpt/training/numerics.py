"""What decides the bits of a result, apart from settings and data: device, precision, threads, libraries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy
import torch

from nanogpt import device as devices
from nanogpt.config import DeviceConfig
from nanogpt.kernels import library
from nanogpt.kernels.conditions import kernels_wanted
from nanogpt.machine import gains_by_bfloat16
from nanogpt.native.unavailable import Unavailable

TORCH = "torch"
# What dropout drops: a checkpoint that does not say it was written when attention's weights were dropped too.
DROPPED, DROPPED_ONCE = "what the layers add", "what the layers add, and attention's weights"


@dataclass(frozen=True)
class Numerics:
    """Kept in the manifest of each checkpoint, so that a resumed training computes as it did before."""

    device: str
    precision: str  # of the matrix products: "float32", "bfloat16" or "float16"
    newton_schulz: str  # precision of Muon's orthogonalisation
    threads: int
    torch: str
    numpy: str
    attention: str = "sdpa"  # by torch's kernel, or as "products"
    compiled: bool = False
    longest_window: int | None = None  # tokens; None: whole windows
    kernels: str = TORCH  # torch's, or the name of nanogpt.kernels

    def differences(self, before: Mapping[str, Any], **more: object) -> dict[str, str]:
        """{name: "before -> now"} against the manifest of an earlier session.

        `more`: other figures that decide the bits and may change during training. Gradient checkpointing gives the
        same bits, so it is not compared.
        """
        before = {"dropped": DROPPED_ONCE, **before} if before else {}
        now = asdict(self) | more
        return {key: f"{before[key]} -> {now[key]}" for key in now if before.get(key, now[key]) != now[key]}


def choose(wanted: DeviceConfig, before: Mapping[str, Any]) -> tuple[Numerics, str]:
    """Settle device, precision and threads; also returns a warning, "" without one.

    What the settings leave open is taken from `before`, the manifest of a checkpoint ({} at a fresh start).
    """
    chosen = devices.choose(wanted.type)
    device, same_device = chosen.device, before.get("device") == chosen.device
    threads = wanted.threads or before.get("threads") or devices.physical_cores()
    devices.configure(device, threads, saves_memory=wanted.gradient_checkpointing)
    if wanted.mixed_precision == "auto":
        precision = before["precision"] if same_device else native_precision(device)
    else:
        precision = devices.precision_of(device, wanted.mixed_precision)
    numerics = Numerics(
        device,
        precision,
        newton_schulz=newton_schulz_precision(device, wanted, before["newton_schulz"] if same_device else None),
        attention=attention_path(wanted, before.get("attention") if same_device else None),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        numpy=numpy.__version__,
        compiled=wanted.compile,
        longest_window=wanted.longest_window,
    )
    name, without = choose_kernels(wanted, device, precision, before if same_device else None)
    warnings = filter(None, (chosen.warning, without))
    return replace(numerics, kernels=name), "; ".join(warnings)


def choose_kernels(
    wanted: DeviceConfig, device: str, precision: str, before: Mapping[str, Any] | None = None
) -> tuple[str, str]:
    """What Numerics.kernels is, and a warning where C is wanted and cannot be had, or computes attention in its own way
    though another is wanted.

    A training goes on with torch's operators when it has begun with them: `before`, the manifest of its checkpoint,
    says nothing where it is older than the kernels.
    """
    goes_on_with_torch = before is not None and before.get("kernels", TORCH) == TORCH
    if goes_on_with_torch or not kernels_wanted(wanted, device, precision):
        return TORCH, ""
    try:
        name = library.load().name
    except Unavailable as reason:
        return TORCH, f"training by torch's operators alone: {reason}"
    if wanted.attention == "auto":
        return name, ""
    return name, f"device.attention {wanted.attention} is not followed by the kernels; device.kernels=torch follows it"


def newton_schulz_precision(device: str, wanted: DeviceConfig, before: str | None = None) -> str:
    """Of Muon's orthogonalisation on `device`: as `wanted` states, else as `before`, else the device's fastest."""
    return (before or native_precision(device)) if wanted.newton_schulz == "auto" else wanted.newton_schulz


def attention_path(wanted: DeviceConfig, before: str | None = None) -> str:
    """ "sdpa" or "products": as `wanted` states, else as `before`, else torch's kernel."""
    return (before or "sdpa") if wanted.attention == "auto" else wanted.attention


def native_precision(device: str) -> str:
    """The type that `device` multiplies fastest; a fact, not a timing, so that two runs agree on it.

    MPS: float32, because opinions on bfloat16 differ by the chip (26 % less memory, 17 % slower to 31 % faster).
    """
    gains = gains_by_bfloat16() if device == "cpu" else device == "cuda"
    return "bfloat16" if gains and devices.native_bfloat16(device) else "float32"
