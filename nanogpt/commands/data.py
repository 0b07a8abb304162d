"""What there is to learn from, and what data holds. nanogpt data COMMAND --help"""

from __future__ import annotations

import argparse
from importlib import import_module

HELP = "texts to learn from: list them, check a folder, look at tokens"
# Each is a module of nanogpt.commands.data_commands; in the order of --help.
COMMANDS: tuple[str, ...] = ("list", "check", "inspect")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"nanogpt.commands.data_commands.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(data_command=module.run)


def run(arguments: argparse.Namespace) -> int:
    return int(arguments.data_command(arguments))
