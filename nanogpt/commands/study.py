"""Look into a model: each study writes figures and a short JSON file into a folder. nanogpt study STUDY --help"""

from __future__ import annotations

import argparse

from nanogpt.commands import groups

HELP = "look into a model: attention, predictions by layer, gradients"
# Each is a module of nanogpt.commands.studies; in the order of --help.
STUDIES: tuple[str, ...] = ("attention", "lens", "embeddings", "gradients", "components", "scaling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    groups.add_commands(parser, "STUDY", "nanogpt.commands.studies", STUDIES)


run = groups.run
