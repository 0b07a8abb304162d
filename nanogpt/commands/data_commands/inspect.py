"""Documents of a data folder with a colour for each token, and how often its tokens occur; as a page with --page."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, positive, print_note, seed

HELP = "documents as coloured tokens, on the terminal or as a page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="DATA_FOLDER", help="what nanogpt prepare or a run has written")
    parser.add_argument("--split", default="train", help="train, val or test; default: %(default)s")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--document", type=seed, metavar="N", help="show document N, counted from 0; default: drawn at random"
    )
    which.add_argument(
        "--count", type=positive(int), default=3, metavar="N", help="documents to draw; default: %(default)s"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the random choice; default: %(default)s")
    parser.add_argument(
        "--tokens", type=positive(int), default=300, metavar="N", help="most tokens of a document; default: %(default)s"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--page", type=path, metavar="FILE", help="write a page, one HTML file, instead")
    output.add_argument("--json", action="store_true", help="a line of JSON for each document, with its ids")


def run(arguments: argparse.Namespace) -> int:
    """Show the documents. Nothing is changed."""
    from nanogpt.commands.inspected import (  # numpy, rich: --help does without
        print_json,
        print_statistics,
        print_tokens,
    )
    from nanogpt.data.frequencies import frequencies_of
    from nanogpt.data.inspection import Inspection

    inspection = Inspection(arguments.folder, arguments.split, arguments.tokens)
    if arguments.document is not None:
        excerpts = [inspection.document(arguments.document)]
    else:
        excerpts = inspection.drawn(arguments.count, arguments.seed)
    if arguments.json:
        for excerpt in excerpts:
            print_json(excerpt)
        return 0
    found = frequencies_of(arguments.folder)
    if arguments.page is not None:
        from nanogpt.data.inspection_page import write_page

        name = arguments.folder.resolve().name
        print_note(f"{write_page(name, inspection.manifest, found, excerpts, arguments.page)} is written")
        return 0
    print_statistics(inspection.manifest.statistics, found)
    for excerpt in excerpts:
        print_tokens(excerpt)
    return 0
