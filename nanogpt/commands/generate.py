"""Write the text that follows a prompt. Without one, it is asked for on a terminal and read from a pipe elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from nanogpt.commands.arguments import path, positive, print_note
from nanogpt.commands.writing import add_writing, options_of
from nanogpt.faults import UserError
from nanogpt.inference.options import Options

HELP = "write the text that follows a prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", metavar="TEXT", help="the beginning of the text; empty: the model begins")
    file = 'many prompts: one per line, or JSON lines such as {"prompt": "Once", "top_k": 9}; - is stdin'
    prompt.add_argument("--prompts", metavar="FILE", help=file)
    add = parser.add_argument
    add("--num-samples", type=positive(int), default=1, metavar="N", help="texts a prompt (default: %(default)s)")
    add("--json", action="store_true", help="a line of JSON for each text")
    add("--logprobs", type=int, metavar="N", help="show each token's probability and the N likeliest")
    add("--allow-unknown", action="store_true", help="go on even if over 10 %% of the prompt is outside the vocabulary")
    guesses = "a smaller model with the same tokenizer that guesses ahead: the same text, faster, one at a time"
    add("--draft", type=path, metavar="FOLDER", help=guesses)
    add = add_writing(parser, tokens=300).add_argument
    add("--stop", action="append", default=[], metavar="TEXT", help="end before this; repeatable")
    bias = "add X to the logit of the token with this id; repeatable"
    add("--logit-bias", action="append", type=_bias, default=[], metavar="ID=X", help=bias)
    pattern = "a regular expression that the text has to match (needs `pip install llguidance`)"
    add("--pattern", metavar="REGEX", help=pattern)
    add("--json-schema", type=path, metavar="FILE", help="a JSON schema that the text has to follow (as above)")
    add("--beams", type=positive(int), default=1, metavar="N", help="search for the likeliest text with N candidates")
    longer = "with --beams: above 1 prefers longer texts, below 1 shorter (default: %(default)s)"
    add("--length-penalty", type=float, default=1.0, metavar="X", help=longer)


def run(arguments: argparse.Namespace) -> int:
    """Print prompts and what follows them, piece by piece."""
    from nanogpt.commands import prompts_file  # pydantic, numpy and what computes: --help does without
    from nanogpt.commands.opened_model import description, open_engine
    from nanogpt.commands.printed import Printer
    from nanogpt.commands.texts import Request
    from nanogpt.commands.typed import Typed, history_file, note, rest_of_stdin
    from nanogpt.inference import prompts

    options, copies = _options(arguments), arguments.num_samples
    if options.beams > 1 and copies > 1:
        raise UserError(f"--num-samples {copies}: --beams {options.beams} searches for one text")
    engine = open_engine(arguments, arguments.draft)
    options.check(engine.tokenizer.vocab_size)
    for stop in arguments.stop:
        if remark := prompts.backslash_in(stop):
            print_note(f"--stop: {remark}")
    asks = arguments.prompts is None and arguments.prompt is None and sys.stdin.isatty()
    printer = Printer(engine, arguments.json, arguments.raw, arguments.allow_unknown, note if asks else print_note)
    if arguments.prompts:
        return printer.write(prompts_file.read(arguments.prompts, options, copies))
    if asks:
        note(description(engine, arguments.folder))
        note("Type the beginning of a text, or nothing: the model writes on. Ctrl-C stops it, Ctrl-D leaves.")
        note("")
        with Typed(None if arguments.no_history else history_file("generate")) as typed:
            typed.each(lambda: "> ", lambda prompt: printer.write_until_interrupted(Request(prompt, options, copies)))
        return 0
    prompt = rest_of_stdin() or "\n" if arguments.prompt is None else arguments.prompt
    return printer.write([Request(prompt, options, copies)])


def _options(arguments: argparse.Namespace) -> Options:
    return replace(
        options_of(arguments),
        stop=tuple(arguments.stop),
        logit_bias=dict(arguments.logit_bias),
        beams=arguments.beams,
        length_penalty=arguments.length_penalty,
        alternatives=arguments.logprobs,
        pattern=arguments.pattern,
        json_schema=_schema(arguments.json_schema),
    )


def _schema(file: Path | None) -> dict[str, object] | None:
    """A JSON schema. Raises UserError where the file holds no JSON object."""
    if file is None:
        return None
    from nanogpt.commands.typed import all_of

    try:
        with open(file, encoding="utf-8-sig") as opened:
            schema = json.loads(all_of(opened, f"--json-schema {file}"))
    except RecursionError:
        raise UserError(f"--json-schema {file}: is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"--json-schema {file}: is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UserError(f'--json-schema {file}: should hold an object, such as {{"type": "integer"}}')
    return schema


def _bias(text: str) -> tuple[int, float]:
    """An argparse type: a token's id and what is added to its logit."""
    try:
        token, bias = text.split("=")
        return int(token), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, should be a token's id and a number, as in 13=-5") from None
