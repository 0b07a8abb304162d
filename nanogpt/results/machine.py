"""The machine that computes, proved (nanogpt.device), and the parts of a model, proved on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceCandidate:
    """One device that was tried: whether it computes what the CPU does in float64, and how far it was off."""

    device: str
    works: bool
    error: str | None
    max_relative_error: float | None


@dataclass(frozen=True)
class DeviceProof:
    """The device that was chosen, what it is, and what was found of the others."""

    device: str
    name: str
    torch: str
    platform: str
    memory_bytes: int
    bfloat16: bool  # multiplied in hardware
    asked: str
    warning: str  # "" when the choice is what was asked for
    candidates: list[DeviceCandidate]
    max_relative_error: float | None
    float32_flops: float  # FLOP/s of matrix products
    bfloat16_flops: float | None
    threads: int | None = None  # of a CPU


@dataclass(frozen=True)
class ComponentCheck:
    """One figure against its limit; `group` is "component" (the mathematics) or "device" (its kernels)."""

    name: str
    passed: bool
    measured: float
    limit: float
    unit: str
    explanation: str
    group: str = "component"
