"""The device: choose it, describe it, measure it, free it."""

from __future__ import annotations

import contextlib
import gc
import math
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from nanogpt.allocator import keep_freed_memory, let_go_of_freed_memory, return_freed_memory
from nanogpt.machine import has_bfloat16_instructions, memory_bytes, processor_name
from nanogpt.machine import physical_cores as physical_cores  # part of this module's interface
from nanogpt.results.machine import DeviceCandidate, DeviceProof

LARGEST_RELATIVE_ERROR = 1e-3  # float32 gives about 2e-7, TF32 and half-precision accumulation about 3e-4

# Dense tensor-core FLOP/s in half precision with float32 sums, from NVIDIA's datasheets and architecture whitepapers
# (figures with "sparsity" are twice as high). Longer names come first: "H100" is the SXM module.
HALF_PRECISION_RATES = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
BEFORE_AMPERE = ("V100", "T4")  # float16 alone: neither bfloat16 nor TF32


@dataclass(frozen=True)
class Chosen:
    """A device of this machine, with a warning for the person when it is not the one that was asked for."""

    device: str
    warning: str = ""


@dataclass(frozen=True)
class Description:
    """A device; `memory_bytes` is all that it has, `threads` a CPU's."""

    device: str
    name: str
    torch: str
    platform: str
    memory_bytes: int
    bfloat16: bool  # multiplied in hardware
    threads: int | None = None


def choose(asked: str = "auto") -> Chosen:
    """The device for `asked` (auto, cpu, mps, cuda); in place of an absent one the best present, with a warning."""
    present = available()
    if asked == "auto":
        return Chosen(present[0])
    if asked in present:
        return Chosen(asked)
    return Chosen(present[0], f"device.type {asked} is not on this machine; taking {present[0]}")


def available() -> list[str]:
    """Devices on this machine, best first."""
    present = []
    if torch.cuda.is_available():
        present.append("cuda")
    if torch.backends.mps.is_available():
        present.append("mps")
    return [*present, "cpu"]


def prove(asked: str) -> DeviceProof:
    """Allocate and compute on every device present, compare with the CPU in float64, and choose.

    A device that fails is named in `candidates` and passed over; the CPU remains. With asked "cpu" all others are left
    alone: one may have ended this process before. Raises RuntimeError when not even the CPU computes correctly.
    """
    candidates = [_try(device) for device in (available() if asked != "cpu" else ["cpu"])]
    working = {candidate.device: candidate for candidate in candidates if candidate.works}
    if not working:
        raise RuntimeError(f"not even the CPU computes correctly: {candidates[-1].error}")
    proof, warning = working.get(asked) or next(iter(working.values())), ""
    if asked not in ("auto", proof.device):
        failed = [candidate.error for candidate in candidates if candidate.device == asked]
        warning = f"device.type {asked}: {failed[0] if failed else 'it is not on this machine'}; taking {proof.device}"
    found = describe(proof.device)
    return DeviceProof(
        **vars(found),
        asked=asked,
        warning=warning,
        candidates=candidates,
        max_relative_error=proof.max_relative_error,
        float32_flops=matmul_rate(proof.device, torch.float32),
        bfloat16_flops=_rate_or_none(proof.device, torch.bfloat16) if found.bfloat16 else None,
    )


def _try(device: str) -> DeviceCandidate:
    try:
        error = _relative_error(device)
    except (RuntimeError, TypeError) as exception:
        return DeviceCandidate(device, False, str(exception).splitlines()[0], None)
    works = error < LARGEST_RELATIVE_ERROR
    problem = None if works else f"a product differs from the CPU's by {error:.1e}"
    return DeviceCandidate(device, works, problem, error if math.isfinite(error) else None)  # JSON has no NaN


def matmul_rate(device: str, dtype: torch.dtype, size: int = 1024, seconds: float = 0.4) -> float:
    """FLOP/s of a square matrix product of `size`: the practical peak to compare a training with."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    for _ in range(3):
        a @ b
    synchronize(device)
    products, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(4):
            a @ b
        synchronize(device)
        products += 4
    return products * 2 * size**3 / (time.perf_counter() - began)


def peak_rate(name: str, precision: str) -> float | None:
    """FLOP/s of matrix products as the maker of the accelerator `name` states them; None for an unknown one.

    precision "float16" or "bfloat16"; "float32" is TF32's rate, half of that, as configure() allows it.
    """
    card = next((card for card in HALF_PRECISION_RATES if re.search(rf"\b{card}\b", name)), None)
    if card is None or (card in BEFORE_AMPERE and precision != "float16"):
        return None
    return HALF_PRECISION_RATES[card] / (2 if precision == "float32" else 1)


def _rate_or_none(device: str, dtype: torch.dtype) -> float | None:
    """The rate, or None where the device refuses a type that it claims to support."""
    try:
        return matmul_rate(device, dtype)
    except (RuntimeError, TypeError):
        return None


def _relative_error(device: str) -> float:
    """Of a float32 product on `device` against float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).cpu().double()
    return float((found - exact).norm() / exact.norm())


def describe(device: str) -> Description:
    """What `device` is, for a report."""
    threads = None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory
    elif device == "mps":
        name, memory = "Apple GPU (Metal)", torch.mps.recommended_max_memory()
    else:
        name, memory, threads = processor_name(), memory_bytes(), torch.get_num_threads()
    return Description(
        device, name, str(torch.__version__), platform.platform(), memory, native_bfloat16(device), threads
    )


def native_bfloat16(device: str) -> bool:
    """Whether `device` multiplies bfloat16 in hardware (a CPU: by AVX-512 BF16 or AMX); else it is emulated, slowly."""
    if device != "cpu":
        return device == "mps" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and has_bfloat16_instructions()


def configure(device: str, threads: int, saves_memory: bool = False) -> None:
    """Set up this process for training: threads, memory that it keeps, TF32 in CUDA's float32 products.

    `saves_memory`: give freed memory back at once, as device.gradient_checkpointing asks; an accelerator's memory is
    not the C library's.
    """
    torch.set_num_threads(threads)
    if saves_memory and device == "cpu":
        let_go_of_freed_memory()
    else:
        keep_freed_memory()
    if device == "cuda":  # elsewhere float32 stays float32: oneDNN would take TF32 too where a CPU has it
        torch.set_float32_matmul_precision("high")


def precision_of(device: str, mixed_precision: bool | str) -> str:
    """The type of the products, "float32", "bfloat16" or "float16", for a setting other than "auto".

    True is bfloat16, which needs no loss scaling, but for CUDA devices that would emulate it (before Ampere).
    """
    if mixed_precision is True:
        return "float16" if device == "cuda" and not native_bfloat16(device) else "bfloat16"
    return mixed_precision or "float32"


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """Matrix products in `precision` ("bfloat16", "float16") inside the context; "float32" changes nothing."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type=device, dtype=getattr(torch, precision))


def synchronize(device: str) -> None:
    """Wait until `device` has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def memory_in_use(device: str) -> int:
    """Bytes: allocated tensors on an accelerator, the resident set of this process on the CPU."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    if device == "mps":
        return torch.mps.current_allocated_memory()
    return psutil.Process().memory_info().rss


def peak_memory(device: str) -> int:
    """Bytes: the most that this process has held. MPS keeps no peak, so there it is what its driver holds now."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":  # ru_maxrss there begins with the peak of the process that started this one
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def give_back_memory(device: str) -> None:
    """Give unused memory back to the system and to an accelerator."""
    gc.collect()
    return_freed_memory()
    if device in ("cuda", "mps"):
        getattr(torch, device).empty_cache()


def reset_peak_memory(device: str) -> None:
    """Give unused memory back and count the peak anew; a process's own only on Linux."""
    give_back_memory(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif device == "cpu" and sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
