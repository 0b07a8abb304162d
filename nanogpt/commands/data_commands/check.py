"""Read your own files as `prepare` would, and say what is in them, what is left out and why. Nothing is written. The
exit code is 2 where nothing can be learned from them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from nanogpt.commands.arguments import add_overrides, named
from nanogpt.faults import UserError

HELP = "which of your own files would be read, and why not the others"
MOST_CHARACTERS = 1_000_000_000  # read without --all: a minute or so


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=named, metavar="SOURCE",
        help="file, folder, pattern, several with commas between them, or - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true", help="read all of it, not only the first 1,000,000,000 characters"
    )
    add_overrides(parser, example="data.column=body, data.encoding=cp1251")


def run(arguments: argparse.Namespace) -> int:
    """Print what is found."""
    from nanogpt.commands.data_commands.check_tables import show_checked
    from nanogpt.config import Config, apply_overrides, validate
    from nanogpt.sources import checking, own
    from nanogpt.sources.formats.family import Wanted
    from nanogpt.sources.kinds import kind_of

    if kind_of(arguments.source) != "own":
        raise UserError(
            f"SOURCE: {arguments.source} is no file or folder of text; nanogpt prepare takes it as it is published"
        )
    values: dict[str, object] = {}
    data = validate(Config, values, "--set", apply_overrides(values, arguments.set)).data
    with tempfile.TemporaryDirectory() as kept:
        source = own.keep_standard_input(arguments.source, Path(kept))
        most = sys.maxsize if arguments.all else MOST_CHARACTERS
        found = checking.check(source, Wanted.of(data), most)
    show_checked(arguments.source, found)
    if found.obstacle:
        raise UserError(f"data.source: nothing can be learned from {arguments.source}: {found.obstacle}")
    return 0
