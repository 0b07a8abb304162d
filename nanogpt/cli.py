"""The `nanogpt` command. What each of its commands does is a file of nanogpt/commands."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from nanogpt import standard_streams
from nanogpt.faults import CorruptFileError, UserError

COMMANDS = (  # in the order of --help
    "prepare",
    "import-data",
    "train",
    "lr-range",
    "plan",
    "batch-size",
    "profile",
    "generate",
    "eval",
    "export",
    "adapters",
    "merge",
)
USER_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code. A person's mistake is one line on stderr and code 2."""
    if argv is None:  # the process is this command's own
        standard_streams.make_usable()
    arguments = make_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (UserError, CorruptFileError) as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python flushes once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"nanogpt: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """torch is imported by what runs, not by what is asked about: --help takes hundredths of a second."""
    parser = argparse.ArgumentParser(prog="nanogpt", description="Train, use and measure a small GPT.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = import_module(f"nanogpt.commands.{name.replace('-', '_')}")
        of_command = commands.add_parser(name, help=command.HELP, description=command.__doc__)
        command.add_arguments(of_command)
        of_command.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
