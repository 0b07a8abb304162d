"""Find the micro-batch that trains fastest on this machine. What was found is kept, and told at once the next time."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanogpt.commands.arguments import add_model, model_config, positive

HELP = "find the micro-batch that trains fastest here"
FOLDER = Path("state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--seconds", type=positive(float), default=60.0, help="for all tries (default: %(default)g)")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, metavar="DIR", help="where it is kept (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was tried and what is the fastest."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn

    config = model_config(arguments)
    console = Console()
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), console=console, transient=True) as progress:
        task = progress.add_task("starting")
        config, found = _found(config, arguments, lambda text: progress.update(task, description=text))
    _show(console, config, found)
    return 0


def _found(config, arguments: argparse.Namespace, notify):
    from nanogpt.measure.batch_finder import find
    from nanogpt.measure.profiler import settle

    device, mixed_precision, _ = settle(config)
    config = config.with_changes({"device.type": device, "device.mixed_precision": mixed_precision})
    return config, find(config, arguments.folder, arguments.seconds, notify)


def _show(console, config, found) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("micro-batch", "tokens/s", "predicted MiB", "measured MiB"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for row in found.tried:
        fits, is_chosen = row["result"] == "fits", row["micro_batch"] == found.micro_batch
        table.add_row(
            f"{row['micro_batch']:,}", f"{row['tokens_per_second']:,.0f}" if fits else "–",
            f"{row['predicted_bytes'] / 2**20:,.0f}", f"{row['peak_memory_bytes'] / 2**20:,.0f}" if fits else "–",
            "← taken" if is_chosen else "" if fits else row["result"], style="bold" if is_chosen else None,
        )  # fmt: skip
    sequences = config.training.sequences_per_step
    console.print(f"[bold]{config.name}[/]: {sequences:,} sequences of {config.model.block_size:,} tokens a step, "
                  f"{config.device.type}" + (", as found before" if found.kept else ""), highlight=False)  # fmt: skip
    console.print(table)
    console.print(f"nanogpt train … --micro-batch {found.micro_batch}", highlight=False)
