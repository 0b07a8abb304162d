"""Add adapters, written by `nanogpt adapters` or by PEFT, to the model that they were trained on, and export it."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, require_folder

HELP = "add adapters to their model, and export it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=path, metavar="BASE", help="an export or a model's training folder")
    parser.add_argument("adapters", type=path, metavar="ADAPTERS", help="a folder with adapter_config.json")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and print what is in it."""
    require_folder("--out", arguments.out)
    from nanogpt.export import adapters

    adapters.merge(arguments.base, arguments.adapters, arguments.out)
    print(f"{arguments.out}: {arguments.base} with the adapters of {arguments.adapters}")
    return 0
