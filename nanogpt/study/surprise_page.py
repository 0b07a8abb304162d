"""A text coloured by how little a model expected each of its tokens: one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, StrictUndefined

from nanogpt import durable
from nanogpt.printable import visible
from nanogpt.results.study import SeenToken, SurpriseStudy

TEMPLATE = Path(__file__).with_name("surprise_page.html")
FULL_COLOUR = 6.0  # nats from which on a token has the full colour: one in 400
LISTED, CONTEXT = 12, 40  # tokens in the table of the least expected; characters before each


def write_page(study: SurpriseStudy, path: Path) -> Path:
    """The page of `study`, durably at `path`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"shade": shade, "visible": visible}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    levels = [0.0, 1.0, 2.0, 4.0, FULL_COLOUR]
    durable.write_page(path, page.render(study=study, levels=levels, least_expected=least_expected(study)))
    return path


def shade(nats: float | None) -> float:
    """0 to 1, of the colour."""
    return round(min(1.0, (nats or 0.0) / FULL_COLOUR), 2)


def least_expected(study: SurpriseStudy) -> list[tuple[str, SeenToken]]:
    """(the text before it, the token), the most surprising first."""
    found, before = [], ""
    for token in study.tokens:
        if token.nats is not None:
            found.append((before[-CONTEXT:], token))
        before += token.text
    return sorted(found, key=lambda pair: pair[1].nats or 0.0, reverse=True)[:LISTED]
