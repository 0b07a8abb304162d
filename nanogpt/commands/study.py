"""Look into a model: each study writes figures and a short JSON file into a folder. nanogpt study STUDY --help"""

from __future__ import annotations

import argparse
from importlib import import_module

HELP = "look into a model: attention, predictions by layer, gradients"
# Each is a module of nanogpt.commands.studies; in the order of --help.
STUDIES: tuple[str, ...] = ("attention", "lens", "embeddings", "gradients", "components", "scaling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    studies = parser.add_subparsers(metavar="STUDY", required=True)
    for name in STUDIES:
        module = import_module(f"nanogpt.commands.studies.{name}")
        study = studies.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(study)
        study.set_defaults(study=module.run)


def run(arguments: argparse.Namespace) -> int:
    return int(arguments.study(arguments))
