"""Clean a text, split it into train, val and test, and tokenise it: anew, or as a model to go on from reads it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nanogpt.commands.arguments import add_overrides
from nanogpt.faults import UserError

HELP = "clean, split and tokenise a text"
ARGUMENTS = {"data.source": "SOURCE", "data.tokenizer": "--tokenizer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="text file, folder of *.txt and *.md, or tiny_shakespeare")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data folder to write")
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument("--tokenizer", choices=("char", "bpe", "gpt2"), default="char", help="default: %(default)s")
    tokenizer.add_argument(
        "--tokenizer-of", type=Path, metavar="FOLDER", help="that of a model or of other data, to fine-tune on SOURCE"
    )
    add_overrides(parser, example="data.bpe_vocab_size=4096, data.val_fraction=0.1")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, its text in DIR/text, and say what is in it."""
    from nanogpt.config import Config, apply_overrides, validate
    from nanogpt.data import preprocessing, shards, sources
    from nanogpt.data.tokenizer import load_tokenizer

    _check_heeded(arguments.set)
    values: dict = {}
    config = validate(Config, values, "--set", apply_overrides(values, arguments.set)).data
    tokenizer = load_tokenizer(arguments.tokenizer_of) if arguments.tokenizer_of else None

    def warn(fault: str, remedy: str) -> None:
        print(f"nanogpt: {fault}; {remedy}", file=sys.stderr)

    text = arguments.out / "text"
    documents = sources.fetch(arguments.source, arguments.out / "downloads", config.mirrors, warn).documents
    preprocessing.prepare(documents, text, config)
    if tokenizer is not None:
        manifest = shards.tokenise_with(tokenizer, text, arguments.out)
    else:
        manifest = shards.tokenise(text, arguments.tokenizer, arguments.out, config, warn)
    told = ", ".join(f"{name} {facts['tokens']:,}" for name, facts in manifest["splits"].items())
    print(f"{arguments.out}: {told} tokens of a vocabulary of {manifest['tokenizer']['vocab_size']:,}")
    return 0


def _check_heeded(overrides: list[str]) -> None:
    """Raise UserError for a setting that would change nothing here."""
    from nanogpt.config import parse_overrides

    for key, _ in parse_overrides(overrides):
        if key in ARGUMENTS:
            raise UserError(f"--set {key}: is told to prepare by {ARGUMENTS[key]}")
        if not key.startswith("data."):
            raise UserError(f"--set {key}: changes nothing of the data; prepare heeds data.* only")
