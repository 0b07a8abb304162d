"""docs/faults.md, made from docs/faults.json and nothing else."""

from __future__ import annotations

from pathlib import Path

from flows.options import CHECKOUT
from nanogpt import durable

MARKDOWN, FACTS = CHECKOUT / "docs/faults.md", CHECKOUT / "docs/faults.json"
GROUPS = {
    "files": "Files that are torn or rotten",
    "processes": "Processes that are killed, signalled or in one another's way",
    "memory": "Memory that runs out",
    "device": "A device that fails",
    "disk": "A disk that is full, read-only or gone",
    "data": "Downloads and data",
    "steps": "Steps that go wrong",
}
LONGEST = 160  # characters of a cell; the JSON has all


def write(facts: dict, markdown: Path = MARKDOWN, json: Path = FACTS) -> None:
    """Both files."""
    durable.write_json(json, facts)
    durable.write_text(markdown, render(facts))


def render(facts: dict) -> str:
    """{"machine", "kinds": [row, ...], "kills": {...}, "overhead": {...}} as Markdown."""
    rows = facts["kinds"]
    survived, times = sum(row["survived"] for row in rows), sum(row.get("times", 1) for row in rows)
    lines = [
        "# Faults: what a run withstands",
        "",
        "Made by `python -m bench.faults --write` with the real command; the same facts are in faults.json.",
        f"{facts['machine']}.",
        "",
        f"**{survived} of {len(rows)} kinds of fault survived**, {times:,} faults in all: each run was finished by the",
        "same command, with the final weights of the uninterrupted run (to the byte, where the remedy does not change",
        "how things are computed), each step in its metrics once, every checkpoint whole, no process left behind and",
        "the neighbouring model untouched.",
        "",
    ]
    for group in [*GROUPS, *sorted({row["group"] for row in rows} - GROUPS.keys())]:
        of_group = [row for row in rows if row["group"] == group]
        if of_group:
            lines += [f"## {GROUPS.get(group, group)}", "", *_table(of_group), ""]
    for name, title in (("kills", "Killed again and again"), ("overhead", "What all this costs")):
        if facts.get(name):
            lines += [f"## {title}", "", *_figures(facts[name]), ""]
    return "\n".join(lines)


def _table(rows: list[dict]) -> list[str]:
    lines = ["| fault | made | noticed as | remedy | result | lost |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row["survived"]:
            lost = f"{row['seconds_lost']:.1f} s, {row['steps_lost']} steps"
            cells = [row["name"], row["made"], row["noticed"], row["remedy"], row["result"], lost]
        else:
            cells = [row["name"], row["made"], "", "", f"**not survived**: {row['why']}", ""]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return lines


def _figures(facts: dict) -> list[str]:
    lines = ["| figure | measured |", "|---|---|"]
    return lines + [f"| {_cell(name)} | {_cell(_figure(value))} |" for name, value in facts.items()]


def _figure(value) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _cell(text: str) -> str:
    text = " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
