"""The page of all runs of a workspace, reports/index.html: what each came to, side by side, linked to its report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.ledger.facts import EVALUATED, FETCHED
from flows.report.curves import Chart, charts
from flows.report.facts import RunFacts
from flows.report.first_screen import JOULES_PER_WATT_HOUR, answers
from flows.report.judgement import best_model
from flows.report.pages import render_page
from nanogpt import durable, markdown
from nanogpt.records import from_json
from nanogpt.units import count, duration, number

PAGE, FACTS, REPORT = "index.html", "facts.json", "training_report.html"
WIDTH, HEIGHT = 120, 36  # of a small curve
UNREADABLE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Row:
    """A run in the table. `link` leads to its report; `curve` are the points of a small one, "" without any."""

    run: str
    link: str
    ended: str
    worked: str
    source: str = ""
    model: str = ""
    parameters: str = ""
    bits_per_byte: str = ""
    time: str = ""
    energy: str = ""
    wrong: str = ""
    curve: str = ""
    trouble: str = ""


def write(reports: Path) -> Path:
    """Write the page of the runs whose reports are in `reports`; the newest first. Raises OSError."""
    rows = sorted(_rows(reports), key=lambda row: (row.ended, row.run), reverse=True)
    durable.write_page(reports / PAGE, render_page("gallery.html.j2", rows=rows, folder=str(reports)))
    return reports / PAGE


def _rows(reports: Path) -> Iterator[Row]:
    for file in sorted(reports.glob(f"*/{FACTS}")):
        folder = file.parent
        link = f"{folder.name}/{REPORT}" if (folder / REPORT).is_file() else ""
        try:
            yield _row(from_json(RunFacts, durable.read_json(file)), folder.name, link)
        except UNREADABLE as error:
            yield Row(folder.name, link, "", "", trouble=f"{FACTS} cannot be read: {type(error).__name__}: {error}")


def _row(facts: RunFacts, name: str, link: str) -> Row:
    best, evaluated, fetched = best_model(facts), facts.of(EVALUATED), facts.of(FETCHED)
    figures = evaluated.models.get(best.name) if evaluated and best else None
    work, _, _, wrong, _ = answers(facts)
    total = facts.energy.total
    return Row(
        run=name,
        link=link,
        ended=facts.ended,
        worked=work.verdict,
        source=markdown.one_line(fetched.source) if fetched else "",
        model=best.name if best else "",
        parameters=count(best.trained.parameters) if best and best.trained else "",
        bits_per_byte=number(figures.test.bits_per_byte, 3) if figures else "",
        time=duration(facts.spent_seconds),
        energy=f"{total / JOULES_PER_WATT_HOUR:.2f} Wh" if total is not None else "",
        wrong=wrong.verdict,
        curve=_curve(charts(facts).get(f"{best.name}-loss")) if best else "",
    )


def _curve(chart: Chart | None) -> str:
    """The validation losses as points of an SVG polyline."""
    lines = [series.columns for series in chart.series if series.name == "validation"] if chart else []
    points = [
        (x, y)
        for columns in lines
        for x, y in zip(columns["step"], columns["loss"], strict=True)
        if x is not None and y is not None
    ]
    if len(points) < 2:
        return ""
    left, right = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    return " ".join(
        f"{2 + (WIDTH - 4) * (x - left) / (right - left or 1):.1f},"
        f"{2 + (HEIGHT - 4) * (high - y) / (high - low or 1):.1f}"
        for x, y in points
    )
