"""Make a model smaller or faster in several ways, and compare them in one table.

int8, int4: weights of few bits. sparse: the smallest weights of each matrix become zero. pruned: heads and feed-forward
rows go, and a short training follows. distilled: a smaller model learns from this one.
"""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import (
    add_device,
    chosen_device,
    named,
    path,
    positive,
    print_markdown,
    print_note,
    require_folder,
)

HELP = "make a model smaller or faster, and compare size, speed and bits per byte"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER", help="an export or a model's training folder")
    parser.add_argument("--data", type=path, required=True, metavar="DIR", help="tokens, from nanogpt prepare")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="a folder for the models and the table")
    parser.add_argument(
        "--seconds",
        type=positive(float),
        default=60.0,
        metavar="S",
        help="training time of the models that learn, shared (default: 60)",
    )
    parser.add_argument(
        "--methods",
        type=named,
        metavar="NAMES",
        help="some of int8, int4, sparse, pruned and distilled, as in int8,pruned (default: all)",
    )
    parser.add_argument(
        "--student",
        type=path,
        metavar="CONFIG",
        help="YAML with the shape of the distilled model (default: half the layers)",
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the models, table.json and table.md, and print the table."""
    require_folder("--out", arguments.out)
    from nanogpt.compression import table  # torch
    from nanogpt.config import load_config

    methods = [name.strip() for name in arguments.methods.split(",")] if arguments.methods else table.METHODS
    table.check_methods(methods)
    found = table.compress(
        arguments.folder,
        arguments.data,
        arguments.out,
        arguments.seconds,
        methods=methods,
        student=load_config(arguments.student) if arguments.student else None,
        device=chosen_device(arguments.device),
        notify=print_note,
    )
    print_markdown(table.as_markdown(found))
    print(f"\nThe models and this table are in {arguments.out}.")
    return 0
