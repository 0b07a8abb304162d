"""Train a model on tokenised data. A folder with checkpoints goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanogpt.commands.arguments import add_overrides, positive

HELP = "train a model on tokenised data; a folder with checkpoints goes on where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, such as configs/tiny_model.yaml")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of tokenised data")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="the model's folder")
    add_overrides(parser)
    parser.add_argument("--max-seconds", type=positive(float), metavar="S", help="training time, over all restarts")
    parser.add_argument(
        "--micro-batch", type=positive(int), metavar="N", help="sequences at once; the step's tokens stay the same"
    )
    parser.add_argument("--parent", type=int, metavar="PID", help="who starts this process: end when it does")


def run(arguments: argparse.Namespace) -> int:
    """Train in this process until finished, stopped or failed; the trainer's exit code."""
    from nanogpt.training.child import run_child

    return run_child(
        arguments.config,
        arguments.data,
        arguments.folder,
        overrides=arguments.set,
        max_seconds=arguments.max_seconds,
        micro_batch=arguments.micro_batch,
        parent=arguments.parent,
    )
