"""The tables of `nanogpt plan`: parameters and work, memory by part, and which micro-batch fits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from nanogpt.config import Config
from nanogpt.measure.memory import PROCESS_BYTES, Memory, likely_precision, predict
from nanogpt.measure.sizes import flops_per_token, kv_cache_bytes, parameters, vocabulary
from nanogpt.units import MIB, byte_size, percent, si

METAL_SHARE = 0.75  # of a Mac's memory: what Metal recommends as its working set
WIDTH = 78
KEPT, RECOMPUTED = "activations kept", "recomputed"


def show(config: Config, micro_batch: int | None) -> None:
    """Print the tables for `config`, whose vocabulary is known."""
    device = _likely_device(config.device.type)
    precision = likely_precision(device, config.device.mixed_precision)
    plan = Plan(config, device, precision, micro_batch or config.training.batch_size)
    console = Console(highlight=False, width=min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))
    for part in (_head, _parts, _fits, _foot):
        part(console, plan)


@dataclass(frozen=True)
class Plan:
    """What is to be trained, on what, and how."""

    config: Config
    device: str
    precision: str
    micro_batch: int

    def memory(self, recompute: bool, micro_batch: int | None = None) -> Memory:
        """With gradient checkpointing or without."""
        return predict(
            self.config,
            micro_batch=micro_batch or self.micro_batch,
            precision=self.precision,
            device=self.device,
            gradient_checkpointing=recompute,
            newton_schulz=likely_precision(self.device),
        )

    @property
    def sequences(self) -> int:
        """In a step."""
        return self.config.training.sequences_per_step

    @property
    def process(self) -> int:
        """Bytes that a process takes before the first tensor, of the memory that is shown."""
        return PROCESS_BYTES if self.device == "cpu" else 0


def _head(console: Console, plan: Plan) -> None:
    config = plan.config
    model, training, counts = config.model, config.training, parameters(config.model)
    step = config.tokens_per_step
    size = f"{counts.total / 1e6:,.1f} M parameters, {model.n_layer} layers of {model.n_embd}"
    console.print(f"[bold]{config.name}[/]  {size}, vocabulary {vocabulary(model):,}")
    at_once = f"{plan.micro_batch} × {model.block_size:,} tokens at once"
    console.print(f"[dim]on {plan.device} in {plan.precision}, {at_once}, {training.optimizer}[/]\n")
    tables = f"{(counts.embedding + counts.head) / 1e6:,.1f} M of them in embedding and head"
    flops, tokens = flops_per_token(model, training.lora_rank), step * training.max_iters
    rows = [
        ("parameters", f"{counts.total:,}", tables),
        ("FLOPs a token", si(flops), f"forward and backward; {si(flops * step)} a step"),
        ("tokens a step", f"{step:,}", f"{plan.sequences} sequences"),
        ("tokens in all", si(tokens), f"{training.max_iters:,} steps; {si(flops * tokens)} FLOPs"),
        ("KV cache", byte_size(kv_cache_bytes(model)), f"one context of {model.block_size:,} in float32"),
    ]
    table = _table("", "", "")
    for name, value, remark in rows:
        table.add_row(name, value, f"[dim]{remark}[/]")
    console.print(table)


def _parts(console: Console, plan: Plan) -> None:
    """What is held at the fullest moment of the passes, by part; then the other moments of a training."""
    both = [plan.memory(recompute) for recompute in (False, True)]
    recompute = plan.config.device.gradient_checkpointing
    names = [KEPT, RECOMPUTED]
    names[recompute] += " *"
    table = _table("MiB", names[0], "share", names[1], "share")
    for part in dict.fromkeys(part for memory in both for part in memory.passes.parts):
        table.add_row(part, *(cell for memory in both for cell in _cells(memory, part)))
    table.add_row()
    rows = [("forward and backward", [memory.passes.total for memory in both], "")]
    rows += [(name, [memory.moment(name).total for memory in both], "") for name in ("update", "evaluation")]
    rows += [("training, at the peak", [memory.total for memory in both], "bold")]
    if plan.process:
        rows += [("with Python and torch", [memory.total + plan.process for memory in both], "bold")]
    for name, (kept, recomputed), style in rows:
        table.add_row(name, f"{kept / MIB:,.0f}", "", f"{recomputed / MIB:,.0f}", "", style=style)
    console.print()
    console.print(table)
    console.print(f"[dim]* as configured (device.gradient_checkpointing: {str(recompute).lower()})[/]")


def _cells(memory: Memory, part: str) -> tuple[str, str]:
    size = memory.passes.parts.get(part)
    return (f"{size / MIB:,.1f}", percent(size / memory.passes.total, 1)) if size else ("–", "")


def _fits(console: Console, plan: Plan) -> None:
    """Each micro-batch against the memory that is there."""
    total, free = _memory_of(plan.device)
    table = _table("micro-batch", KEPT, "", RECOMPUTED, "")
    sizes = sorted({2**power for power in range(plan.sequences.bit_length())} | {plan.sequences, plan.micro_batch})
    for size in (size for size in sizes if size <= plan.sequences):
        cells = []
        for recompute in (False, True):
            needed = plan.memory(recompute, size).total + plan.process
            cells += [f"{needed / MIB:,.0f} MiB", _verdict(needed, total, free)]
        table.add_row(f"{size:,}", *cells, style="bold" if size == plan.micro_batch else None)
    console.print()
    console.print(table)


def _verdict(needed: int, total: int | None, free: int | None) -> str:
    if total is None or free is None:
        return ""
    if needed <= free:
        return "[green]fits[/]"
    return "[yellow]fits when free[/]" if needed <= total else "[red]too large[/]"


def _foot(console: Console, plan: Plan) -> None:
    total, free = _memory_of(plan.device)
    if total is None or free is None:
        return console.print(f"[dim]no {plan.device} device that could be asked for its memory[/]")
    console.print(f"[dim]{plan.device}: {byte_size(total)} of memory, {byte_size(free)} free now[/]")


def _table(*headings: str) -> Table:
    """The first column has words, those with a heading numbers, the others either."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(headings), padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place and heading else "left")
    return table


# ---- the machine, without torch


def _likely_device(asked: str) -> str:
    """What training would choose."""
    if asked != "auto":
        return asked
    if shutil.which("nvidia-smi"):
        return "cuda"
    return "mps" if sys.platform == "darwin" else "cpu"


def _memory_of(device: str) -> tuple[int | None, int | None]:
    """(all, free) bytes of the device; None where it cannot be asked."""
    memory = psutil.virtual_memory()
    if device == "cpu":
        return memory.total, memory.available
    if device == "mps":
        if sys.platform != "darwin":
            return None, None
        return int(METAL_SHARE * memory.total), min(int(METAL_SHARE * memory.total), memory.available)
    return _memory_of_cuda()


def _memory_of_cuda() -> tuple[int | None, int | None]:
    if not Path(shutil.which("nvidia-smi") or "").is_file():
        return None, None
    query = ["nvidia-smi", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        total, free = (int(word) * MIB for word in answer.splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None, None
    return total, free
