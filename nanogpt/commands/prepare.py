"""Clean a text, split it into train, val and test, and tokenise it: with a new tokenizer, or with that of a model to
fine-tune."""

from __future__ import annotations

import argparse
from typing import Any

from nanogpt.commands.arguments import add_overrides, byte_count, named, path, positive, require_folder
from nanogpt.faults import UserError
from nanogpt.printable import printable

HELP = "clean, split and tokenise a text"
ARGUMENTS = {"data.source": "SOURCE", "data.tokenizer": "--tokenizer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        type=named,
        nargs="+",
        metavar="SOURCE",
        help="file, folder, pattern, several with commas between them, - for standard input, a name of `nanogpt data "
        "list`, or hf:OWNER/NAME[:CONFIG][:COLUMN]; several: kept apart, for data.mixture of a training",
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the data folder to write")
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument(
        "--tokenizer",
        type=named,
        metavar="KIND",
        help="char, char_bytes, byte, bpe, gpt2, cl100k_base, o200k_base, a tokenizer.json or hf:OWNER/NAME; default: "
        "what `nanogpt data list` says of SOURCE, else char",
    )
    tokenizer.add_argument(
        "--tokenizer-of",
        type=path,
        metavar="FOLDER",
        help="use the tokenizer of a model or of other data, to fine-tune on SOURCE",
    )
    parser.add_argument(
        "--allow-unknown",
        action="store_true",
        help="accept SOURCE if over 10 %% of it is outside the vocabulary of FOLDER",
    )
    parser.add_argument(
        "--bytes",
        type=byte_count,
        metavar="N",
        help="of text to download from a data set, such as 500M; default: all of it",
    )
    parser.add_argument("--workers", type=positive(int), metavar="N", help="processes; default: one a core")
    parser.add_argument(
        "--chapter",
        type=positive(int),
        metavar="N",
        help="shards after which a training may begin, and continue, while the others are made; default: all of them",
    )
    parser.add_argument(
        "--on", metavar="WHERE", help="dask for a cluster of N workers here, or the HOST:PORT of a Dask scheduler"
    )
    add_overrides(parser, example="data.bpe_vocab_size=4096, data.encoding=cp1251")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, its text in DIR/text, and print what is in it."""
    from nanogpt.commands.preparing import prepared
    from nanogpt.config import Config, apply_overrides, validate
    from nanogpt.sources import mojibake
    from nanogpt.sources.catalogue import CATALOGUE
    from nanogpt.tokenizers import making
    from nanogpt.tokenizers.loading import load_tokenizer

    require_folder("--out", arguments.out)
    _check_keys(arguments.set)
    if arguments.allow_unknown and not arguments.tokenizer_of:
        raise UserError("--allow-unknown goes with --tokenizer-of: other tokenizers are made for the text")
    first = arguments.sources[0]
    of_source = CATALOGUE[first].tokenizer if first in CATALOGUE else "char"
    values: dict[str, Any] = {"data": {"tokenizer": arguments.tokenizer or of_source}}
    origins = {"data.tokenizer": "--tokenizer", **apply_overrides(values, arguments.set)}
    config = validate(Config, values, "--set", origins).data
    making.check_kind(config.tokenizer)
    tokenizer = load_tokenizer(arguments.tokenizer_of) if arguments.tokenizer_of else None
    if config.repair:
        mojibake.require()
    manifest = prepared(arguments, config, tokenizer)
    print(printable(f"{arguments.out}: {manifest.summary()}"))
    return 0


def _check_keys(overrides: list[str]) -> None:
    """Raise UserError for a setting that would change nothing here."""
    from nanogpt.config import parse_overrides

    for key, _ in parse_overrides(overrides):
        if key in ARGUMENTS:
            raise UserError(f"--set {key}: prepare takes it from {ARGUMENTS[key]}")
        if not key.startswith("data."):
            raise UserError(f"--set {key}: changes nothing of the data; prepare takes data.* only")
