"""Train a model on tokenised data. A folder with checkpoints continues where it stopped."""

from __future__ import annotations

import argparse
import contextlib
import math
import shlex
from pathlib import Path

from nanogpt.commands.arguments import add_overrides, add_settings, named, path, positive, print_note, require_folder
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.results.training import TrainingOutcome
from nanogpt.units import byte_size, clock

HELP = "train a model on tokenised data; a folder with checkpoints continues where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=path, metavar="CONFIG", help="YAML file, such as configs/tiny_model.yaml")
    parser.add_argument("--data", type=path, required=True, metavar="DIR", help="folder of tokenised data")
    parser.add_argument("--folder", type=path, required=True, metavar="DIR", help="the model's folder")
    add_overrides(parser)
    parser.add_argument("--init", type=named, metavar="PATH", help="short for --set training.init_from=PATH")
    parser.add_argument("--max-seconds", type=positive(float), metavar="S", help="training time, over all restarts")
    parser.add_argument(
        "--micro-batch", type=positive(int), metavar="N", help="sequences at once; the step's tokens stay the same"
    )
    parser.add_argument(
        "--parent",
        type=int,
        metavar="PID",
        help=argparse.SUPPRESS,  # who starts and shows this process: end with it
    )
    add_settings(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train in this process until finished, stopped or failed; the trainer's exit code."""
    require_folder("--folder", arguments.folder)
    from nanogpt.training.child import run_child  # torch
    from nanogpt.training.record.live_view import shown

    def report(outcome: TrainingOutcome) -> None:
        print(headline(outcome) if is_shown_elsewhere else summary(outcome, arguments))
        if outcome.status == "finished" and not is_shown_elsewhere:
            _write_card(arguments.folder)

    init = [f"training.init_from={arguments.init}"] if arguments.init else []
    is_shown_elsewhere = arguments.parent is not None
    return run_child(
        arguments.config,
        arguments.data,
        arguments.folder,
        overrides=[*arguments.set, *init],
        max_seconds=arguments.max_seconds,
        micro_batch=arguments.micro_batch,
        parent=arguments.parent,
        meanwhile=contextlib.nullcontext() if is_shown_elsewhere else shown(arguments.folder),
        report=report,
    )


def _write_card(folder: Path) -> None:
    """The model's card; the training is over, and does not fail for it."""
    from nanogpt.export import folder_card  # torch

    try:
        folder_card.write_for_training(folder)
    except (OSError, UserError, CorruptFileError) as error:
        print_note(f"the model's card, README.md, was not written: {error}")


def headline(outcome: TrainingOutcome) -> str:
    """One line: how it ended."""
    loss = "none yet" if outcome.best_val_loss is None else f"{outcome.best_val_loss:.4f}"
    reason = "saved" if outcome.status == "stopped" else outcome.why
    return f"{outcome.status} after {outcome.step:,} steps ({reason}): best validation loss {loss}"


def summary(outcome: TrainingOutcome, arguments: argparse.Namespace) -> str:
    """How it ended, what came out, and the commands that continue from here."""
    from nanogpt.training.record.metrics import read_rows

    folder = str(arguments.folder)
    lines = [headline(outcome)]
    if outcome.best_val_loss is not None:
        figures = f"perplexity {math.exp(outcome.best_val_loss):.3f}"
        for row in read_rows(arguments.folder / "metrics.jsonl"):
            if row.get("kind") == "eval" and row["val_loss"]:  # nats a token and bits a byte differ by a constant
                figures += f", {outcome.best_val_loss * row['bits_per_byte'] / row['val_loss']:.4f} bits per byte"
                break
        averaged = " (average of the weights)" if outcome.best_is_average else ""
        lines.append(f"  best     {figures}, at step {outcome.best_step:,}{averaged}")
    if outcome.skipped or outcome.rewinds:
        lines.append(f"  trouble  {outcome.skipped} steps skipped, {outcome.rewinds} times back (events.jsonl)")
    lines += [
        f"  time     {clock(outcome.seconds)}, {outcome.tokens:,} tokens, {outcome.tokens_per_second:,.0f} a second",
        f"  machine  {outcome.device}, {outcome.precision}, at most {byte_size(outcome.peak_memory_bytes)}",
        f"  model    {folder} ({outcome.parameters:,} parameters; its curve: loss.svg)",
        "",
    ]
    if outcome.status == "stopped":
        return "\n".join([*lines, "Continue with", f"  {command_again(arguments)}"])
    commands = [
        ["nanogpt", "generate", folder],
        ["nanogpt", "eval", folder, "--data", str(arguments.data)],
        ["tensorboard", "--logdir", f"{folder}/tensorboard"],
    ]
    return "\n".join([*lines, "Use it with", *(f"  {shlex.join(command)}" for command in commands)])


def command_again(arguments: argparse.Namespace) -> str:
    """The command line that these arguments were read from."""
    words = ["nanogpt", "train", arguments.config, "--data", arguments.data, "--folder", arguments.folder]
    for setting in arguments.set:
        words += ["--set", setting]
    for option in ("init", "max_seconds", "micro_batch"):
        if (value := getattr(arguments, option)) is not None:
            words += [f"--{option.replace('_', '-')}", value]
    return shlex.join(str(word) for word in words)
