"""Show what training steps spend their time on: tokens and FLOP a second, and the share of each part."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanogpt.commands.arguments import add_model, model_config, positive
from nanogpt.results import Profile

HELP = "show what training steps spend their time on"
BAR = 24  # characters of the longest bar
OF_THE_OPTIMIZER = ("gradient norm", "AdamW", "Muon", "weight average")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--steps", type=positive(int), default=20, help="to time (default: %(default)s)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of tokenised data (default: random tokens)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw it, as .svg or .png")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="record steps for chrome://tracing or Perfetto")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; draw and record what was asked for."""
    config, tokens, split = _what_to_run(arguments)
    from nanogpt.measure.profiler import profile

    found = profile(config, arguments.steps, tokens, split, arguments.trace)
    _show(config.name, found)
    if arguments.picture:
        from nanogpt import plots

        print(f"picture  {plots.profile_plot(config.name, found.facts(), arguments.picture)}")
    if arguments.trace:
        print(f"trace    {arguments.trace}")
    return 0


def _what_to_run(arguments: argparse.Namespace):
    """The configuration with its vocabulary, and the tokens to train and to evaluate on."""
    config = model_config(arguments)
    if arguments.data is None:
        return config, None, None
    from nanogpt.data.shards import open_split, verify

    verify(arguments.data)
    train, val = (open_split(arguments.data, name) for name in ("train", "val"))
    return config.with_changes({"model.vocab_size": train.vocab_size}), train.tokens, val.tokens


def _show(name: str, found: Profile) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    told = f"{found.device}, {found.precision}" + (f", {found.threads} threads" if found.device == "cpu" else "")
    console.print(f"[bold]{name}[/]  {found.parameters / 1e6:,.1f} M parameters, {told}, {found.steps} steps")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in (("part", "left"), ("ms a step", "right"), ("share", "right"), ("", "left")):
        table.add_column(heading, justify=side)
    longest = max(found.shares.values())
    for part, seconds in found.seconds.items():
        share = found.shares[part]
        table.add_row(part, f"{1e3 * seconds:,.2f}", f"{share:.1%}", f"[blue]{'█' * round(BAR * share / longest)}[/]")
    table.add_row()
    for whole, parts in (("optimizer", OF_THE_OPTIMIZER), ("all", found.seconds)):
        of_it = [part for part in parts if part in found.seconds]
        table.add_row(whole, f"{1e3 * sum(map(found.seconds.get, of_it)):,.2f}",
                      f"{sum(map(found.shares.get, of_it)):.1%}", "", style="bold")  # fmt: skip
    console.print(table)
    console.print("[dim]evaluation and checkpoint are spread over the steps between them[/]")
    console.print(f"{found.tokens_per_second:,.0f} tokens/s, {found.flops_per_second / 1e9:,.1f} GFLOP/s, "
                  f"{found.share_of_matmul:.0%} of plain matrix products "
                  f"({found.matmul_flops_per_second / 1e9:,.0f} GFLOP/s)")  # fmt: skip
    if found.share_of_peak is not None:
        console.print(f"{found.share_of_peak:.0%} of the peak rate that the maker names (MFU)")
    console.print(f"at most {found.peak_memory_bytes / 2**20:,.0f} MiB of memory")
