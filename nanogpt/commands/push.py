"""Publish an export on huggingface.co, or on the hub that HF_ENDPOINT names, with its card.

The token is that of HF_TOKEN or of `hf auth login`.
"""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import named, path, print_note

HELP = "publish an export on huggingface.co"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER", help="an export: what nanogpt export has written")
    parser.add_argument("--repo", type=named, required=True, metavar="OWNER/NAME", help="created if it does not exist")
    parser.add_argument("--private", action="store_true", help="only its owner may see it")


def run(arguments: argparse.Namespace) -> int:
    """Send the folder's files in one commit and print the address of the repository."""
    from nanogpt.export import front_matter, hub

    if front_matter.has_unknown_licence(arguments.folder):
        print_note(f"{arguments.folder / front_matter.CARD} says `license: unknown`; fill in what you allow")
    print(hub.push(arguments.folder, arguments.repo, arguments.private))
    return 0
