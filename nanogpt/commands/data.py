"""What there is to learn from, and what data holds. nanogpt data COMMAND --help"""

from __future__ import annotations

import argparse

from nanogpt.commands import groups

HELP = "texts to learn from: list them, check a folder, look at tokens"
# Each is a module of nanogpt.commands.data_commands; in the order of --help.
COMMANDS: tuple[str, ...] = ("list", "check", "inspect")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    groups.add_commands(parser, "COMMAND", "nanogpt.commands.data_commands", COMMANDS)


run = groups.run
