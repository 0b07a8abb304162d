"""What `nanogpt data inspect` prints: documents as tokens, and how often tokens occur."""

from __future__ import annotations

import json

from rich.console import Console
from rich.text import Text

from nanogpt.data.inspection import Excerpt
from nanogpt.printable import printable
from nanogpt.results.text import TokenFrequencies, TokenStatistics
from nanogpt.units import percent

COLOURS = ("#1d4f73", "#7a4510", "#1f5c3a", "#6f2f4f", "#4a3a7a", "#5c5413")  # behind white letters


def print_json(excerpt: Excerpt) -> None:
    tokens = [[token.id, token.text] for token in excerpt.tokens]
    print(json.dumps({
        "split": excerpt.split, excerpt.unit: excerpt.number, "first": excerpt.first, "tokens": tokens,
        "left_out": excerpt.left_out,
    }))  # fmt: skip


def print_statistics(statistics: TokenStatistics, found: TokenFrequencies) -> None:
    splits = ", ".join(f"{name} {tokens:,}" for name, tokens in statistics.tokens_per_split.items())
    used = found.vocabulary_used / found.vocab_size
    print(
        f"{statistics.tokenizer}: {splits} tokens; {statistics.bytes_per_token:.2f} bytes a token\n"
        f"{found.vocabulary_used:,} of {found.vocab_size:,} tokens of the vocabulary occur ({percent(used, 1)}); "
        + ", ".join(f"{tokens:,} make up {percent(share, 0)}" for share, tokens in found.coverage)
    )


def print_tokens(excerpt: Excerpt) -> None:
    """In colours on a terminal that has them; elsewhere with a bar between tokens."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{excerpt.title}[/]")
    coloured = console.is_terminal and not console.no_color
    line = Text(end="\n")
    for number, token in enumerate(excerpt.tokens):
        shown = printable(token.text, console.encoding)
        if coloured:
            line.append(shown.replace("\n", "⏎\n"), style=f"white on {COLOURS[number % len(COLOURS)]}")
        else:
            line.append(("|" if number else "") + shown)
    console.print(line)
    if excerpt.left_out:
        print(f"({excerpt.left_out:,} more tokens of it are not shown)")
