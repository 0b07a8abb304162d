"""Write the adapters of a model trained with training.lora_rank to a small folder of their own, in PEFT's layout."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, require_folder

HELP = "write a model's low-rank adapters, in PEFT's layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER", help="a training folder with adapters; best/ is taken")
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and print how large it is."""
    require_folder("--out", arguments.out)
    from nanogpt.export import adapters
    from nanogpt.units import byte_size

    files = adapters.save_apart(arguments.folder, arguments.out)
    print(f"{arguments.out}: adapters, {byte_size(sum(path.stat().st_size for path in files))}")
    return 0
