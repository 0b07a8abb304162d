"""The tables of `nanogpt profile` and `nanogpt batch-size`."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from nanogpt.config import Config
from nanogpt.results.speed import FastestMicroBatch, Profile
from nanogpt.units import MIB, byte_size, percent

BAR = 24  # characters of the longest bar
OF_THE_OPTIMIZER = ("gradient norm", "AdamW", "Muon", "weight average")


def show_profile(name: str, found: Profile) -> None:
    """Milliseconds and share of each part of a step, and the rates."""
    console = Console(highlight=False)
    where = f"{found.device}, {found.precision}" + (f", {found.threads} threads" if found.device == "cpu" else "")
    console.print(f"[bold]{name}[/]  {found.parameters / 1e6:,.1f} M parameters, {where}, {found.steps} steps")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    table.add_column("ms a step", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    longest = max(found.shares.values())
    for part, share in found.shares.items():
        bar = f"[blue]{'█' * round(BAR * share / longest)}[/]"
        table.add_row(part, f"{1e3 * found.seconds[part]:,.2f}", percent(share, 1), bar)
    table.add_row()
    _add_sum(table, "optimizer", found, OF_THE_OPTIMIZER)
    _add_sum(table, "all", found, found.seconds)
    console.print(table)
    console.print("[dim]evaluation and checkpoint are spread over the steps between them[/]")
    products = f"{percent(found.share_of_matmul, 0)} of plain matrix products"
    console.print(
        f"{found.tokens_per_second:,.0f} tokens/s, {found.flops_per_second / 1e9:,.1f} GFLOP/s, {products} "
        f"({found.matmul_flops_per_second / 1e9:,.0f} GFLOP/s)"
    )
    if found.share_of_peak is not None:
        console.print(f"{percent(found.share_of_peak, 0)} of the peak rate that the maker names (MFU)")
    console.print(f"at most {byte_size(found.peak_memory_bytes)} of memory")


def _add_sum(table: Table, name: str, found: Profile, parts: Iterable[str]) -> None:
    present = [part for part in parts if part in found.seconds]
    seconds, share = sum(found.seconds[part] for part in present), sum(found.shares[part] for part in present)
    table.add_row(name, f"{1e3 * seconds:,.2f}", percent(share, 1), "", style="bold")


def show_micro_batches(config: Config, found: FastestMicroBatch) -> None:
    """Each try, which one is taken, and the option that takes it."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("micro-batch", "tokens/s", "predicted MiB", "measured MiB"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for row in found.tried:
        is_chosen = row.micro_batch == found.micro_batch
        table.add_row(
            f"{row.micro_batch:,}",
            "–" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
            f"{row.predicted_bytes / MIB:,.0f}",
            "–" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / MIB:,.0f}",
            "← taken" if is_chosen else "" if row.fits else row.result,
            style="bold" if is_chosen else None,
        )
    step = f"{config.training.sequences_per_step:,} sequences of {config.model.block_size:,} tokens a step"
    known = ", as found before" if found.kept else ""
    console.print(f"[bold]{config.name}[/]: {step}, {config.device.type}{known}", highlight=False)
    console.print(table)
    console.print(f"nanogpt train … --micro-batch {found.micro_batch}", highlight=False)
