"""A command that is a group of commands, each a module with HELP, add_arguments(parser) and run(arguments)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module


def add_commands(parser: argparse.ArgumentParser, metavar: str, package: str, names: Sequence[str]) -> None:
    """Add the modules `names` of `package`, in the order of --help."""
    commands = parser.add_subparsers(metavar=metavar, required=True)
    for name in names:
        module = import_module(f"{package}.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(of_group=module.run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command of the group that was chosen; its exit code."""
    return int(arguments.of_group(arguments))
