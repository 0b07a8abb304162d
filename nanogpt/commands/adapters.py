"""Write the adapters of a model trained with training.lora_rank apart from it, in PEFT's layout: a small folder."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write a model's low-rank adapters apart, in PEFT's layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a training folder of adapters, best/ is taken")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and say how large it is."""
    from nanogpt.export import adapters

    files = adapters.save_apart(arguments.folder, arguments.out)
    print(f"{arguments.out}: adapters, {sum(path.stat().st_size for path in files):,} bytes")
    return 0
