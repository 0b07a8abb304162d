"""What the text is made of: its most frequent tokens, how often each occurs, and how long they are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nanogpt.plots.style import BLUE, LINES, SOFT, categories, say_empty, set_title, write_behind_bar, write_figure
from nanogpt.printable import visible
from nanogpt.results.text import TokenFrequencies, TokenStatistics
from nanogpt.units import percent

MOST_TOKENS = 15  # of each vocabulary


def token_statistics_plot(vocabularies: Sequence[TokenStatistics], path: Path) -> Path:
    """The most frequent tokens of each vocabulary, with their share of all tokens of the text."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, max(1, len(vocabularies)), squeeze=False)[0]
        if not vocabularies:
            return say_empty(panels[0], "no tokens yet")
        for axes, found in zip(panels, vocabularies, strict=True):
            rows = found.most_frequent[:MOST_TOKENS]
            shares = [times / found.tokens for _, times in rows]
            set_title(axes, f"Most frequent tokens: {found.tokenizer}", "share of all tokens", "")
            axes.barh(range(len(rows)), shares, height=0.62, color=BLUE)
            for place, share in enumerate(shares):
                write_behind_bar(axes, percent(share), (share, place), fontsize=8.5)
            categories(axes, [_drawable(token) for token, _ in rows])
            axes.set_xlim(0, 1.18 * max(shares, default=1.0))
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
            what = f"{found.vocab_size:,} tokens in the vocabulary\n{found.bytes_per_token:.2f} bytes per token"
            axes.text(0.98, 0.04, what, transform=axes.transAxes, ha="right", color=SOFT, fontsize=9)

    return write_figure(draw, path, height=1.1 + 0.25 * MOST_TOKENS)


def token_frequencies_plot(vocabularies: Mapping[str, TokenFrequencies], path: Path) -> Path:
    """Occurrences over rank, and the share of the text's tokens of each length, of each named vocabulary."""

    def draw(figure: Figure) -> None:
        ranks, lengths = figure.subplots(1, 2)
        set_title(ranks, "How often each token occurs", "rank", "occurrences")
        set_title(lengths, "Length of tokens", "bytes in a token", "share of all tokens")
        if not vocabularies:
            return say_empty(ranks, "no tokens yet")
        for (name, found), (color, dash) in zip(vocabularies.items(), itertools.cycle(LINES), strict=False):
            ranks.loglog(*zip(*found.ranks, strict=True), color=color, linestyle=dash, label=name)
            shares = [times / found.tokens for _, times in found.lengths]
            sizes = [size for size, _ in found.lengths]
            lengths.plot(sizes, shares, color=color, linestyle=dash, marker="o", markersize=3.5, label=name)
        lengths.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value, 0)))
        lengths.xaxis.set_major_locator(MaxNLocator(integer=True))
        lengths.set_ylim(bottom=0)
        lengths.legend()

    return write_figure(draw, path, height=3.2)


def _drawable(token: str) -> str:
    """With blanks that can be seen, and the code of each character that the font lacks."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    signs = visible(token)
    return "".join(sign if font.get_char_index(ord(sign)) else f"U+{ord(sign):04X} " for sign in signs).strip()
