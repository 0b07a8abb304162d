"""Make a data folder from one of nanoGPT's: train.bin, val.bin and, for characters, meta.pkl. Ids stay as they are."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, print_note, require_folder

HELP = "make a data folder from one of nanoGPT's (train.bin, val.bin, meta.pkl)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=path, metavar="DIR", help="nanoGPT's folder, such as data/shakespeare_char")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the data folder to write")
    parser.add_argument("--mirror", metavar="PLACE", action="append", default=[],
        help="folder or URL asked for GPT-2's vocabulary first (repeatable)")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and say what is in it."""
    require_folder("--out", arguments.out)
    from nanogpt.corpus.nanogpt_format import import_folder

    manifest = import_folder(
        arguments.source, arguments.out, arguments.mirror,
        lambda fault, remedy: print_note(f"{fault}; {remedy}"),
    )  # fmt: skip
    print(f"{arguments.out}: {manifest.summary()}; nanoGPT has no test split")
    return 0
