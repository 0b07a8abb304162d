"""What stands above every measured table: the processor, its cores, and how it multiplies matrices."""

import contextlib
import platform
from importlib.metadata import version

from nanogpt.machine import cores, processor_name

# By the word in /proc/cpuinfo, best first. Speeds, memory and the last digits of losses differ from kind to kind.
PRODUCTS = {
    "amx_bf16": "bfloat16 by AMX",
    "avx512_bf16": "bfloat16 by AVX-512",
    "avx512f": "float32 by AVX-512, bfloat16 emulated",
    "avx2": "float32 by AVX2, bfloat16 emulated",
}


def this_machine() -> str:
    """Such as "Intel(R) Xeon(R) Processor, x86_64, 2 cores, bfloat16 by AMX, torch 2.13.0"."""
    return f"{processor_name()}, {platform.machine()}, {cores()} cores, {products()}, torch {version('torch')}"


def products() -> str:
    """How the processor multiplies; where the system does not say, that."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        words = set(file.read().split())
        return next((kind for word, kind in PRODUCTS.items() if word in words), "float32")
    return "products of a kind that the system does not name"
