"""How much memory and work a training takes, before anything of it is run: arithmetic, no torch."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_model, positive

HELP = "show how much memory and work a training takes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--micro-batch", type=positive(int), metavar="N", help="sequences at once (default: the configuration's)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    from nanogpt.commands.chosen_model import model_config  # pydantic and rich: --help does without
    from nanogpt.commands.plan_tables import show

    show(model_config(arguments), arguments.micro_batch)
    return 0
