"""What stands above every measured table: the processor, its cores, and how it multiplies matrices.

A document that keeps one table a kind of machine has a section for each, with `kind()` as its heading.
"""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

from nanogpt import durable
from nanogpt.machine import (
    cores,
    cpuinfo,
    gains_by_bfloat16,
    has_bfloat16_instructions,
    is_amds,
    processor_features,
    processor_name,
)

# By the instruction's name in Linux, best first. Speeds, memory and the last digits of losses differ by the kind.
NO_GAIN = "float32 by AVX-512, bfloat16 slower"  # see gains_by_bfloat16()
PRODUCTS = {
    "amx_bf16": "bfloat16 by AMX",
    "avx512_bf16": "bfloat16 by AVX-512",
    "avx512f": "float32 by AVX-512, bfloat16 emulated",
    "avx2": "float32 by AVX2, bfloat16 emulated",
}
ZEN_5 = "26"  # AMD's family: 512 bits at once, where Zen 4 takes two turns
HELD_TO = "ONEDNN_MAX_CPU_ISA"  # oneDNN leaves better instructions alone: a machine made to stand for a lesser one


def this_machine() -> str:
    """Such as "Intel(R) Xeon(R) Processor, x86_64, 2 cores, bfloat16 by AMX, torch 2.13.0"."""
    held = f" (a better one, held to this by {HELD_TO}={os.environ[HELD_TO]})" if HELD_TO in os.environ else ""
    return f"{processor_name()}, {platform.machine()}, {cores()} cores, {kind()}{held}, torch {version('torch')}"


def kind() -> str:
    """How the processor multiplies; where the system does not say, that."""
    features = processor_features().split()
    if not features:
        return "products of a kind that the system does not name"
    if has_bfloat16_instructions() and not gains_by_bfloat16():
        return NO_GAIN
    found = next((kind for word, kind in PRODUCTS.items() if word in features), "float32")
    return f"{found}, Zen 5" if is_amds() and cpuinfo("cpu family") == ZEN_5 else found


def write_section(document: Path, head: str, heading: str, text: str) -> None:
    """`document` with `head` above all and `text` as the section `## heading`; its other sections stay."""
    old = document.read_text(encoding="utf-8") if document.is_file() else ""
    sections = {}
    for section in re.split(r"^## ", old, flags=re.MULTILINE)[1:]:
        name, _, rest = section.partition("\n")
        sections[name.strip()] = rest.strip()
    sections[heading] = text.strip()
    parts = [head.strip(), *(f"## {name}\n\n{rest}" for name, rest in sections.items())]
    durable.write_text(document, "\n\n".join(parts) + "\n")
