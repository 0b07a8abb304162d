"""A data folder as a page: its documents with a colour for each token, and how often tokens occur. One HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from nanogpt import durable
from nanogpt.data.inspection import Excerpt
from nanogpt.data.shards import Manifest
from nanogpt.printable import visible
from nanogpt.results.text import TokenFrequencies
from nanogpt.units import count

TEMPLATE = Path(__file__).with_name("inspection_page.html")
WIDTH, HEIGHT = 420, 240  # of the drawing of ranks
LEFT, RIGHT, BOTTOM = 52, 24, 24  # of it, for the axes' labels
MOST_LENGTHS = 16  # bytes; longer tokens share a bar


@dataclass(frozen=True)
class Tick:
    place: float
    label: str


@dataclass(frozen=True)
class Drawing:
    """A line through `points` ("x,y x,y"), with ticks at powers of ten on both axes."""

    points: str
    across: list[Tick]
    up: list[Tick]


def write_page(name: str, manifest: Manifest, found: TokenFrequencies, excerpts: Sequence[Excerpt], path: Path) -> Path:
    """The page of the data folder called `name`, durably at `path`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["visible"] = visible
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shares = ", ".join(f"{tokens:,} make up {100 * share:g} %" for share, tokens in found.coverage)
    content = page.render(
        name=name,
        manifest=manifest,
        statistics=manifest.statistics,
        found=found,
        excerpts=excerpts,
        coverage=f"The commonest {shares}.",
        ranks=drawing(found.ranks),
        lengths=bars(found),
        box={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "bottom": BOTTOM},
    )
    durable.write_page(path, content)
    return path


def drawing(ranks: Sequence[tuple[int, int]]) -> Drawing:
    """How often a token occurs, over its rank, both along their logarithms."""
    across, up = (max(1, math.ceil(math.log10(max(pair[axis] for pair in ranks)))) for axis in (0, 1))

    def place(rank: float, times: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * math.log10(rank) / across
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * math.log10(times) / up
        return round(x, 1), round(y, 1)

    return Drawing(
        " ".join("{},{}".format(*place(*pair)) for pair in ranks),
        [Tick(place(10**power, 1)[0], _power(power)) for power in range(across + 1)],
        [Tick(place(1, 10**power)[1], _power(power)) for power in range(up + 1)],
    )


def _power(power: int) -> str:
    return f"{10**power:,}" if power < 6 else count(10**power)


def bars(found: TokenFrequencies) -> list[tuple[str, float, float]]:
    """(bytes, share of all tokens, the same of the largest) for each length."""
    sizes: dict[str, int] = {}
    for size, times in found.lengths:
        label = str(size) if size < MOST_LENGTHS else f"{MOST_LENGTHS}+"
        sizes[label] = sizes.get(label, 0) + times
    largest = max(sizes.values(), default=1)
    return [(label, times / found.tokens, times / largest) for label, times in sizes.items()]
