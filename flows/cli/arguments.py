"""The options of `python -m flows.full_run`. Standard library only: they are read before anything is installed."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path
from typing import NoReturn

from flows.context.command_words import PHASES, AssumedSpeed, assumed_speed_of, seconds_of
from nanogpt import __version__
from nanogpt.faults import UserError, nearest

CHECKOUT = Path(__file__).resolve().parents[2]


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The words of a command line, checked as far as no file needs to be read. Raises UserError."""
    given = make_parser().parse_args(argv)
    check_budget(given.budget)
    if given.only is not None and given.only not in PHASES:
        known = ", ".join(PHASES)
        raise UserError(f"--only {given.only}: no such phase{nearest(given.only, PHASES)}; phases are {known}")
    if given.assume_speed is not None and not given.plan:
        raise UserError("--assume-speed: goes with --plan; a run measures its own speed")
    if given.install_at_boot:
        for option in ("only", "redo", "fresh", "status", "plan", "uninstall"):
            if getattr(given, option):
                raise UserError(f"--install-at-boot cannot go with --{option}: a boot starts the plain command")
    return given


class Parser(argparse.ArgumentParser):
    """A mistake in the command line is one line, as every other mistake."""

    def error(self, message: str) -> NoReturn:
        unknown = re.search("unrecognized arguments: (--[^ =]+)", message)
        near = nearest(unknown[1], self._option_string_actions) if unknown else ""
        raise UserError(f"{message}{near}; --help lists the options")


def named(text: str) -> str:
    """A name or a path, which a shell makes empty where a variable is not set. Raises argparse.ArgumentTypeError."""
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    try:
        os.stat(os.path.expanduser(text))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # whoever uses it says so, or makes it
    except OSError as error:  # too long, or a link to itself
        raise argparse.ArgumentTypeError(f"{error.strerror}: {text[:100]}") from None
    return text


def path(text: str) -> Path:
    """A path, with a person's folder in place of ~. Raises argparse.ArgumentTypeError."""
    try:
        return Path(named(text)).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text} is in the home of a user who does not exist") from None


def speed(text: str) -> AssumedSpeed:
    """Raises argparse.ArgumentTypeError."""
    try:
        return assumed_speed_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _ShowVersion(argparse.Action):
    """Unlike argparse's own: git is asked for the commit only when the version is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(f"nanogpt-autopilot {__version__}{_commit()}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m flows.full_run",
        allow_abbrev=False,
        description="From nothing to a trained, evaluated, exported and documented GPT. "
        "Kill it at any time; the same command continues.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34),
    )
    add = parser.add_argument
    add_run_options(
        parser,
        budget="wall clock for the whole run: 2m, 10m, 1h, 8h (default 6h)",
        run="default",
        config="a model's YAML (trains exactly that) or a run's YAML",
    )
    add("--plan", action="store_true", help="what would run, with expected time and memory; changes nothing")
    add("--assume-speed", metavar="N:TOKENS:TIME", type=speed,
        help="with --plan: for a machine where N parameters take TIME for TOKENS, such as 30M:4096:400ms")  # fmt: skip
    add("--only", metavar="PHASE", help=f"run one phase: {', '.join(PHASES)}")
    add("--redo", metavar="STEP", action="append", default=[], help="run a step again, such as training.micro")
    add("--install-at-boot", action="store_true",
        help="let launchd or systemd start this command at every boot until the run is done")  # fmt: skip
    add("--uninstall", action="store_true", help="undo --install-at-boot")
    return parser


def add_run_options(parser: argparse.ArgumentParser, *, budget: str, run: str, config: str) -> None:
    """What every run is asked for. `budget` and `config` are their help, `run` is the default of --run."""
    add = parser.add_argument
    add("--budget", metavar="TIME", help=budget)
    add("--data", metavar="NAME|PATH", type=named,
        help="auto (default): by budget and speed; a name (nanogpt data list), hf:owner/name, a path")  # fmt: skip
    add("--run", metavar="NAME", help=f"name of the run (default: {run})")
    add("--workspace", metavar="DIR", type=path, default=CHECKOUT, help="where results go (default: the checkout)")
    add("--config", metavar="FILE", type=path, help=config)
    add("--set", metavar="KEY=VALUE", action="append", default=[],
        help="change a setting: training.learning_rate=3e-4, data.mirror=DIR,URL (repeatable)")  # fmt: skip
    add("--status", action="store_true", help="table of steps with state and reason, then end")
    add("--fresh", action="store_true", help="begin again; earlier results of this run are moved aside")
    add("--on-hangup", metavar="WHAT", help="when the terminal is closed: continue (default), or save and stop")
    add("--min-charge", metavar="PERCENT",
        help="on battery below this, training saves and waits for power (default 20; 0: never)")  # fmt: skip
    add("--no-ui", action="store_true", help="without the Prefect server and its pages")
    add("--no-bootstrap", action="store_true", help="use this Python as it is, install nothing")
    add("--version", action=_ShowVersion, nargs=0, help="show the version and the checkout's commit, then end")


def check_budget(budget: str | None) -> None:
    """Raises UserError."""
    try:
        seconds_of("6h" if budget is None else budget)
    except ValueError as error:
        raise UserError(f"--budget: {error}") from None


def _commit() -> str:
    """` (commit 1a2b3c4)`, or nothing where the checkout is no git work tree of its own."""
    if not (CHECKOUT / ".git").exists():
        return ""
    try:
        asked = ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
        commit = subprocess.check_output(asked, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f" (commit {commit.decode().strip()})"
