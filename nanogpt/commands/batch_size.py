"""Find the micro-batch that trains fastest on this machine. What was found is kept, and shown at once the next time."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanogpt.commands.arguments import add_model, path, positive, require_folder

HELP = "find the micro-batch that trains fastest here"
FOLDER = Path("state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--seconds", type=positive(float), default=60.0, help="for all tries (default: %(default)g)")
    parser.add_argument(
        "--folder", type=path, default=FOLDER, metavar="DIR", help="where the result is kept (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was tried and what is the fastest."""
    require_folder("--folder", arguments.folder)
    from nanogpt.commands.chosen_model import model_config  # pydantic, rich, torch: --help does without
    from nanogpt.commands.measure_tables import show_micro_batches
    from nanogpt.commands.progress import progress_lines

    config = model_config(arguments)
    with progress_lines("loading torch") as show:
        from nanogpt.measure.batch_finder import find
        from nanogpt.measure.profiler import settle

        device, mixed_precision, _ = settle(config)
        config = config.with_changes({"device.type": device, "device.mixed_precision": mixed_precision})
        found = find(config, arguments.folder, arguments.seconds, show)
    show_micro_batches(config, found)
    return 0
