"""Serve models over HTTP: OpenAI's API for programs, a page to talk on for people."""

from __future__ import annotations

import argparse
import logging
import sys

from nanogpt.commands.arguments import add_computing, chosen_device, path, positive, print_note

HELP = "serve models over HTTP, with OpenAI's API and a page to talk on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=path, metavar="PATH", help="an export, a training folder or a run's workspace"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than this machine's own "
                        "loopback demand a token (default: %(default)s)")  # fmt: skip
    parser.add_argument("--port", type=port_number, default=8484, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--token-file", type=path, metavar="FILE", help="clients have to send the token in it; so "
                        "does NANOGPT_TOKEN in the environment")  # fmt: skip
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name by which clients "
                        "may address this server, such as one of a proxy; repeatable")  # fmt: skip
    parser.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="another site whose pages "
                        "may post, such as https://example.org; repeatable")  # fmt: skip
    parser.add_argument(
        "--max-batch", type=positive(int), metavar="N", help="texts that are written together (default: 64)"
    )
    parser.add_argument("--max-queue", type=positive(int), metavar="N", help="requests that may wait (default: 128)")
    parser.add_argument("--max-loaded", type=positive(int), metavar="N", help="models in memory (default: 3)")
    parser.add_argument("--quiet", action="store_true", help="no line of log for each request")
    add_computing(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from dataclasses import replace

    from nanogpt.serving import server
    from nanogpt.serving.settings import Limits, Settings, token_from

    limits = {"batch": arguments.max_batch, "queue": arguments.max_queue, "loaded": arguments.max_loaded}
    settings = Settings(
        paths=tuple(arguments.paths),
        host=arguments.host,
        port=arguments.port,
        token=token_from(arguments.token_file),
        device=chosen_device(arguments.device),
        backend=arguments.backend,
        precision=arguments.precision,
        hosts=tuple(arguments.allow_host),
        origins=tuple(arguments.allow_origin),
        limits=replace(Limits(), **{name: value for name, value in limits.items() if value is not None}),
    )
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("nanogpt.access").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    server.run(settings, print_note)
    return 0


def port_number(text: str) -> int:
    """An argparse type."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"found {text!r}, should be 0 to 65535")
    return int(text)
