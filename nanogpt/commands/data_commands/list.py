"""The texts that have a name here: how large, whose, how they are split, and which budget each serves."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

HELP = "the texts that have a name here"
OTHERS = """\
Any text file, folder, glob or - (standard input) is a source too; so is a data set of a hub,
hf:owner/name[@revision][:config][:column], and a folder of nanoGPT's with train.bin and val.bin."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one line of JSON for each, with digests and addresses")


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue. Nothing is downloaded."""
    from nanogpt.sources.catalogue import CATALOGUE, EMBEDDED, licence
    from nanogpt.units import si

    if arguments.json:
        for source in CATALOGUE.values():
            print(json.dumps({**asdict(source), "hub": str(source.hub) if source.hub else None}))
        return 0
    for source in CATALOGUE.values():
        size = f"{'about ' if source.is_estimate else ''}{si(source.bytes, 'B')} of text"
        download = f"{si(source.download_bytes, 'B')} to download"
        how = f"split: {source.split}, tokens: {source.tokenizer}"
        print(f"{source.name:<17}for a run of {source.budget}: {size}, {download}; {how}")
        print(f"    {source.description}\n    {source.licence}\n    {source.page}")
    print(f"{EMBEDDED:<17}without a network: what is here; split: documents, tokens: bpe")
    print(f"    documentation that is on this machine\n    {licence(EMBEDDED)}\n\n{OTHERS}")
    return 0
