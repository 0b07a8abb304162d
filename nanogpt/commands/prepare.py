"""Clean a text, split it into train, val and test, and tokenise it: with a new tokenizer, or with that of a model to
fine-tune."""

from __future__ import annotations

import argparse
from typing import Any

from nanogpt.commands.arguments import add_overrides, named, path, print_note, require_folder
from nanogpt.faults import UserError

HELP = "clean, split and tokenise a text"
ARGUMENTS = {"data.source": "SOURCE", "data.tokenizer": "--tokenizer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=named,
        metavar="SOURCE",
        help="file, folder, pattern, several with commas between them, - for standard input, or tiny_shakespeare",
    )
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the data folder to write")
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument(
        "--tokenizer",
        type=named,
        default="char",
        metavar="KIND",
        help="char, char_bytes, byte, bpe, gpt2, cl100k_base, o200k_base, a tokenizer.json or hf:OWNER/NAME; default: "
        "%(default)s",
    )
    tokenizer.add_argument(
        "--tokenizer-of", type=path, metavar="FOLDER", help="that of a model or of other data, to fine-tune on SOURCE"
    )
    parser.add_argument(
        "--allow-unknown", action="store_true", help="even if over 10 %% of SOURCE is outside the vocabulary of FOLDER"
    )
    add_overrides(parser, example="data.bpe_vocab_size=4096, data.encoding=cp1251")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, its text in DIR/text, and print what is in it."""
    from nanogpt.config import Config, apply_overrides, validate
    from nanogpt.corpus import preparation, tokenising
    from nanogpt.sources import catalogue, cleaning, fetching, mojibake, own
    from nanogpt.sources.account import Account
    from nanogpt.sources.formats.family import Wanted
    from nanogpt.tokenizers.loading import load_tokenizer

    require_folder("--out", arguments.out)
    _check_keys(arguments.set)
    if arguments.allow_unknown and not arguments.tokenizer_of:
        raise UserError("--allow-unknown goes with --tokenizer-of: other tokenizers are made for the text")
    values: dict[str, Any] = {"data": {"tokenizer": arguments.tokenizer}}
    origins = {"data.tokenizer": "--tokenizer", **apply_overrides(values, arguments.set)}
    config = validate(Config, values, "--set", origins).data
    tokenizer = load_tokenizer(arguments.tokenizer_of) if arguments.tokenizer_of else None
    normalise = tokenizer.normalise if tokenizer else cleaning.clean

    if config.repair:
        mojibake.require()
    text = arguments.out / "text"
    named = own.keep_standard_input(arguments.source, arguments.out / "standard-input")
    wanted = Wanted(config.encoding, config.column, config.repair)
    fetched = fetching.fetch(named, arguments.out / "downloads", config.mirrors, _warn, wanted)
    source = catalogue.EMBEDDED if fetched.fallback_reason else own.name_of(named)
    account = Account()
    statistics = preparation.prepare(fetched.documents, text, config, normalise, account)
    for remark in [*fetched.remarks(), *account.remarks(), *preparation.remarks(statistics)]:
        print_note(remark)
    if tokenizer is not None:
        manifest = tokenising.tokenise_with(tokenizer, text, arguments.out, arguments.allow_unknown, _warn, source)
    else:
        manifest = tokenising.tokenise(text, config.tokenizer, arguments.out, config, _warn, source)
    print(f"{arguments.out}: {manifest.summary()}")
    return 0


def _warn(fault: str, remedy: str) -> None:
    print_note(f"{fault}; {remedy}")


def _check_keys(overrides: list[str]) -> None:
    """Raise UserError for a setting that would change nothing here."""
    from nanogpt.config import parse_overrides

    for key, _ in parse_overrides(overrides):
        if key in ARGUMENTS:
            raise UserError(f"--set {key}: prepare takes it from {ARGUMENTS[key]}")
        if not key.startswith("data."):
            raise UserError(f"--set {key}: changes nothing of the data; prepare takes data.* only")
