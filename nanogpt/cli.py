"""The `nanogpt` command. Each of its commands is a file of nanogpt/commands."""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib import import_module
from typing import Any, NoReturn, Protocol

from nanogpt import __version__, interrupts, standard_streams
from nanogpt.faults import CorruptFileError, NonFiniteError, UserError, nearest
from nanogpt.printable import show_mistake

COMMANDS = (  # in the order of --help
    "data",
    "prepare",
    "import-data",
    "train",
    "watch",
    "lr-range",
    "plan",
    "batch-size",
    "profile",
    "generate",
    "chat",
    "serve",
    "eval",
    "compare",
    "study",
    "export",
    "push",
    "adapters",
    "merge",
    "compress",
)
USER_ERROR = 2
GREETING = """\
nanogpt {version}: train, use and measure a small GPT.

Turn a text into tokens, see what a training takes, train:
  nanogpt prepare book.txt --out data/book --tokenizer char
  nanogpt plan configs/micro.yaml
  nanogpt train configs/micro.yaml --data data/book --folder models/book

Let the model write, write a play with it, use it on a page or from programs:
  nanogpt generate models/book --prompt "Once"
  nanogpt chat models/book
  nanogpt serve models/book

Measure it on text that it never saw; export it for transformers or llama.cpp:
  nanogpt eval models/book --data data/book
  nanogpt export models/book --out exports/book --to hf,gguf

nanogpt --help lists all commands, nanogpt COMMAND --help the options of one.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code. A person's mistake is one line on stderr and code 2."""
    if argv is None:  # the process is this command's own
        standard_streams.make_usable()
    try:
        arguments = make_parser().parse_args(argv)
        return int(arguments.run(arguments))
    except (UserError, CorruptFileError, NonFiniteError) as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; Python flushes once more at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except MemoryError as error:
        return _fail(f"there is not enough memory ({error})" if str(error) else "there is not enough memory")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return interrupts.STOPPED
    finally:
        interrupts.forget()


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


class _Parser(argparse.ArgumentParser):
    """A mistake in the command line is one line, as every other mistake, with the nearest right word."""

    def error(self, message: str) -> NoReturn:
        option = re.search("unrecognized arguments: (--[^ =]+)", message)
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)$", message)
        near = nearest(option[1], self._option_string_actions) if option else ""
        near = nearest(choice[1], re.findall(r"[\w.-]+", choice[2])) if choice else near
        sys.exit(_fail(f"{message}{near}; {self.prog} --help says more"))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Here, and not in the parser of all commands, the options of this one are known."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known, rest

    def _print_message(self, message: str, file: _Writable | None = None) -> None:
        """argparse ignores that a stream cannot be written: a help of more than 8 KiB was lost without a word."""
        if message:
            (file or sys.stderr).write(message)


def make_parser() -> argparse.ArgumentParser:
    """Commands import torch when they run, so --help takes hundredths of a second."""
    parser = _Parser(prog="nanogpt", description="Train, use and measure a small GPT.")
    parser.add_argument("--version", action="version", version=f"nanogpt {__version__}")
    parser.set_defaults(run=_greet)
    commands = parser.add_subparsers(metavar="COMMAND")
    for name in COMMANDS:
        module = import_module(f"nanogpt.commands.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _greet(_: argparse.Namespace) -> int:
    print(GREETING.format(version=__version__), end="")
    return 0


def _fail(words: str) -> int:
    show_mistake("nanogpt", words)
    return USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
