"""Fit the law by which loss falls with size and data to your own trainings, with its uncertainty.

It says what ten times the time would give. Finished trainings of one text are needed: four with different numbers of
tokens, or six of three sizes and three numbers of tokens.
"""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, require_folder
from nanogpt.commands.studies.subjects import add_out

HELP = "fit the law by which loss falls with size and data to your own trainings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    run = "a model's training folder, or checkpoints/RUN of a workspace: all its models"
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN", help=run)
    add_out(parser, "scaling")


def run(arguments: argparse.Namespace) -> int:
    """Print the law and what it says, and write scaling.json and the figure."""
    require_folder("--out", arguments.out)
    from nanogpt import durable  # torch, matplotlib and pydantic: --help does without
    from nanogpt.commands.progress import progress_lines
    from nanogpt.plots.scaling import scaling_plot
    from nanogpt.records import to_json
    from nanogpt.study.runs import trained_runs
    from nanogpt.study.scaling import scaling_study

    with progress_lines("fitting"):
        study = scaling_study([found for place in arguments.runs for found in trained_runs(place)])
    out = arguments.out
    durable.write_json(out / "scaling.json", to_json(study))
    print("\n".join([*study.findings, str(out / "scaling.json"), str(scaling_plot(study, out / "scaling.svg"))]))
    return 0
