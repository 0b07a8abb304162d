"""The arguments that generate and chat share: a model, and how it writes."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_computing, path, positive
from nanogpt.inference.options import Options


def add_writing(parser: argparse.ArgumentParser, tokens: int) -> argparse._ArgumentGroup:
    """FOLDER, and all that decides how its model writes. `tokens`: the default of --tokens. The group, for more."""
    parser.add_argument("folder", type=path, metavar="FOLDER", help="an export or a model's training folder")
    parser.add_argument("--raw", action="store_true", help="do not mask control characters in the text")
    no_history = "do not keep what you type for the arrow keys of the next start"
    parser.add_argument("--no-history", action="store_true", help=no_history)
    add_computing(parser)
    group = parser.add_argument_group("how the text is written")
    add = group.add_argument
    add("--tokens", type=positive(int), default=tokens, metavar="N", help="write at most N (default: %(default)s)")
    add("--temperature", type=float, default=0.8, metavar="X", help="0: always the likeliest (default: %(default)s)")
    add("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    add("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that reach this probability")
    add("--min-p", type=float, metavar="P", help="leave out what is less likely than P times the likeliest token")
    add("--typical-p", type=float, metavar="P", help="draw from the most typical tokens that reach this probability")
    penalty = "above 1: tokens that were used come less often (default: %(default)s)"
    add("--repetition-penalty", type=float, default=1.0, metavar="X", help=penalty)
    add("--seed", type=int, metavar="N", help="the same seed writes the same text (default: another one each time)")
    return group


def options_of(arguments: argparse.Namespace) -> Options:
    """What add_writing()'s arguments say."""
    return Options(
        max_new_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        typical_p=arguments.typical_p,
        repetition_penalty=arguments.repetition_penalty,
        seed=arguments.seed,
    )
