"""The model, the text and the folder that every study's arguments name."""

from __future__ import annotations

import argparse
import codecs
from pathlib import Path

from nanogpt import durable
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
        return _typed(str(arguments.text))
    if arguments.file is not None:
        return _beginning_of(arguments.file)
    if arguments.data is not None:
        from nanogpt.data.shards import open_split
        from nanogpt.tokenizers.loading import load_tokenizer

        tokens = open_split(arguments.data, "test").tokens[:LONGEST_TEXT]
        return load_tokenizer(arguments.data).decode(tokens.tolist())
    raise UserError("which text? --text TEXT, --file FILE, or --data DIR for the beginning of its test split")


def _typed(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # a byte of the command line that is no text
        raise UserError(f"--text: its character {error.start + 1} is not text in UTF-8") from None
    return text


def _beginning_of(file: Path) -> str:
    with durable.open_plain(file) as opened:
        content = opened.read(4 * LONGEST_TEXT + 1)
    try:
        # What is cut off may end within a character.
        is_whole = len(content) <= 4 * LONGEST_TEXT
        return codecs.getincrementaldecoder("utf-8")().decode(content, final=is_whole)[:LONGEST_TEXT]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
