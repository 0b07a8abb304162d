"""The comparison as tables: in Markdown for a terminal or a forge, and as one HTML file without outside hosts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from nanogpt import markdown
from nanogpt.results.quality import Estimate
from nanogpt.results.study import ComparedRun, RunComparison
from nanogpt.units import count, duration

COLUMNS = ("run", "bits per byte", "behind the best", "parameters", "steps", "tokens", "time", "seed")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #6b7280; --line: #d1d5db; --back: #fff; --shade: #f3f4f6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --back: #111827; --shade: #1f2937 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
  max-width: 68rem; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; text-align: right; white-space: nowrap }
th { color: var(--soft); font-weight: 600 } th:first-child, td:first-child { text-align: left }
.best-first tbody tr:first-child { background: var(--shade) }
figure { margin: 1.5rem 0; background: #fff; border-radius: 8px; padding: .5rem }
figure svg { width: 100%; height: auto; display: block }
p.small { color: var(--soft); font-size: .9rem }
@media print { body { margin: 0; max-width: none } figure { break-inside: avoid } }
"""


def rows(comparison: RunComparison) -> list[list[str]]:
    """One row a run, from the best, in COLUMNS."""
    behind = {found.run: found for found in comparison.differences}

    def behind_best(run: ComparedRun) -> str:
        found = behind.get(run.name)
        if found is None:
            return "best"
        verdict = "clear" if found.is_clear else "not clear"
        return f"{found.by_text.value:.4f} ± {found.noise:.4f}, {verdict}"

    return [
        [
            run.name,
            interval(run.bits_per_byte),
            behind_best(run),
            count(run.parameters),
            f"{run.steps:,}",
            count(run.tokens),
            duration(run.seconds),
            str(run.seed),
        ]
        for run in comparison.runs
    ]


def interval(estimate: Estimate) -> str:
    """2.1746 (2.1402 to 2.2101)"""
    return f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def as_markdown(comparison: RunComparison) -> str:
    """The table of runs, the settings that differ, and what is to be seen."""
    parts = [_markdown_table(list(COLUMNS), rows(comparison))]
    if comparison.settings:
        names = [run.name for run in comparison.runs]
        settings = [[setting.key, *setting.values] for setting in comparison.settings]
        parts.append(_markdown_table(["setting", *names], settings))
    parts.append("\n".join(f"- {markdown.inline(sentence)}" for sentence in comparison.findings))
    return "\n\n".join(parts) + "\n"


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    cells = ([markdown.inline(cell) if place != 1 else cell for cell in line] for place, line in enumerate(lines))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def as_html(comparison: RunComparison, figures: Sequence[tuple[str, Path]]) -> str:
    """The whole page; `figures`: what each shows, in words, and its SVG file, which is taken in."""
    names = ", ".join(run.name for run in comparison.runs)
    settings = [[setting.key, *setting.values] for setting in comparison.settings]
    parts = [
        f"<h1>Compared: {escape(names)}</h1>",
        "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in comparison.findings) + "</ul>",
        f'<div class="best-first">{_html_table(COLUMNS, rows(comparison))}</div>',
        f'<p class="small">Bits per byte: best weights of each on the {escape(comparison.split)} split, with the '
        "interval that holds 95 % of bootstrap draws over blocks of the text. Behind the best: what the run needs "
        "more, and what chance alone may make of it (another text and another seed).</p>",
        *(f'<figure role="img" aria-label="{escape(words)}">{_inlined(path)}</figure>' for words, path in figures),
    ]
    if settings:
        heads = ["setting", *(run.name for run in comparison.runs)]
        parts += ["<h2>Settings that differ</h2>", _html_table(heads, settings)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Compared: {escape(names)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _html_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    inside = "".join(line(cells, "td") for cells in body)
    return f'<div class="wide"><table><thead>{line(head, "th")}</thead><tbody>{inside}</tbody></table></div>'


def _inlined(path: Path) -> str:
    """An SVG file's element, its ids made its own: two figures on a page may have equal ones."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{path.stem}-', text)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{path.stem}-", text)
