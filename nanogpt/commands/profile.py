"""Show what training steps spend their time on: tokens and FLOP a second, and the share of each part."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from nanogpt.commands.arguments import PICTURES, add_model, path, positive, require_file

HELP = "show what training steps spend their time on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--steps", type=positive(int), default=20, help="to time (default: %(default)s)")
    parser.add_argument("--data", type=path, metavar="DIR", help="folder of tokenised data (default: random tokens)")
    parser.add_argument("--picture", type=path, metavar="FILE", help="draw it, as .svg or .png")
    parser.add_argument("--trace", type=path, metavar="FILE", help="record steps for chrome://tracing or Perfetto")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; draw and record what was asked for."""
    require_file("--picture", arguments.picture, PICTURES)
    require_file("--trace", arguments.trace)
    from nanogpt.commands.chosen_model import model_config  # pydantic, rich, torch: --help does without
    from nanogpt.commands.measure_tables import show_profile

    config, tokens, split = model_config(arguments), None, None
    if arguments.data is not None:
        from nanogpt.data.shards import open_split, verify

        verify(arguments.data)
        train, val = (open_split(arguments.data, name) for name in ("train", "val"))
        config = config.with_changes({"model.vocab_size": train.vocab_size})
        tokens, split = train.tokens, val.tokens
    from nanogpt.measure.profiler import profile

    found = profile(config, arguments.steps, tokens, split, arguments.trace)
    show_profile(config.name, found)
    if arguments.picture:
        from nanogpt.plots.measurements import profile_plot

        facts = {**asdict(found), "shares": found.shares}
        print(f"picture  {profile_plot(config.name, facts, arguments.picture)}")
    if arguments.trace:
        print(f"trace    {arguments.trace}")
    return 0
