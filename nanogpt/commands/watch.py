"""Watch a training or a run while it works, or see how one ended: in this terminal, or on a page with --page."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, print_note
from nanogpt.commands.serve import port_number

HELP = "watch a training or a run: curves, samples, memory, time left; in the terminal or on a page"
PORT = 8485


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folder = "the --folder of nanogpt train, checkpoints/RUN of a workspace, or a workspace (its latest run)"
    parser.add_argument("folder", type=path, metavar="FOLDER", help=folder)
    parser.add_argument("--page", action="store_true", help="show it on a page that only this machine can open")
    parser.add_argument(
        "--port", type=port_number, default=PORT, help="port of the page; 0 takes a free one (default: %(default)s)"
    )
    parser.add_argument("--once", action="store_true", help="show it once, then end")


def run(arguments: argparse.Namespace) -> int:
    """Show until it ends or a person does; nothing that is watched notices."""
    from nanogpt.watch.watched import Watched

    watched = Watched(arguments.folder)
    if arguments.page:
        from nanogpt.watch import server

        server.serve(watched, arguments.port, print_note)
        return 0
    from nanogpt.watch import terminal

    return terminal.watch(watched, once=arguments.once)
