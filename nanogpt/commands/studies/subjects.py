"""The model, the text and the folder that every study's arguments name."""

from __future__ import annotations

import argparse
from pathlib import Path

from nanogpt.commands.arguments import named, path
from nanogpt.faults import UserError

MODEL = (
    "an export, a training folder or a checkpoint in it, a Hugging Face folder, nanoGPT's ckpt.pt, or "
    "random:CONFIG.yaml"
)
LONGEST_TEXT = 1_000_000  # characters; a study looks at one window


def add_subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=named, metavar="MODEL", help=MODEL)
    parser.add_argument("--text", metavar="TEXT", help="the text to look at")
    parser.add_argument("--file", type=path, metavar="FILE", help="the text to look at, from a UTF-8 file")
    tokens = "tokens of nanogpt prepare: their tokenizer, for a model without one; without a text, their test split"
    parser.add_argument("--data", type=path, metavar="DIR", help=tokens)


def add_out(parser: argparse.ArgumentParser, study: str) -> None:
    default = Path("study") / study
    parser.add_argument("--out", type=path, default=default, metavar="DIR", help="for the files (default: %(default)s)")


def text_of(arguments: argparse.Namespace) -> str:
    """The text that the arguments name. Raises UserError when none is there or it cannot be read."""
    if arguments.text is not None and arguments.file is not None:
        raise UserError("--text, --file: give one of them")
    if arguments.text is not None:
        return str(arguments.text)
    if arguments.file is not None:
        try:
            return str(arguments.file.read_bytes()[: 4 * LONGEST_TEXT].decode("utf-8")[:LONGEST_TEXT])
        except UnicodeDecodeError as error:
            raise UserError(f"{arguments.file}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if arguments.data is not None:
        from nanogpt.data.shards import open_split
        from nanogpt.data.tokenizer import load_tokenizer

        tokens = open_split(arguments.data, "test").tokens[:LONGEST_TEXT]
        return load_tokenizer(arguments.data).decode(tokens.tolist())
    raise UserError("which text? --text TEXT, --file FILE, or --data DIR for the beginning of its test split")
