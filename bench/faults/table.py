"""docs/faults.md, made from docs/faults.json and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flows.context.paths import CHECKOUT
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
SERIES = {"kills": "Killed again and again", "overhead": "What all this costs"}
LONGEST = 160  # characters of a cell of a kind; the JSON has all

Facts = dict[str, Any]


def write(measured: Facts, known: list[str]) -> None:
    """Both files: what was `measured` in place of what there was, the rest as it was. `known`: the kinds that are."""
    before = durable.read_json(FACTS) if FACTS.exists() else {"kinds": []}
    rows = {row["name"]: row for row in [*before["kinds"], *measured["kinds"]]}
    facts = {**before, **measured, "kinds": [rows[name] for name in known if name in rows]}
    durable.write_json(FACTS, facts)
    durable.write_text(MARKDOWN, render(facts))


def _commits(rows: list[Facts]) -> str:
    return ", ".join(f"{number} at {commit}" for commit, number in Counter(row["commit"] for row in rows).items())


def render(facts: Facts) -> str:
    """{"machine", "kinds": [row, ...], "kills": {...}, "overhead": {...}} as Markdown."""
    rows = facts["kinds"]
    survived, times = sum(row["survived"] for row in rows), sum(row.get("times", 1) for row in rows)
    lines = [
        "# Faults: what a run withstands",
        "",
        "Made by `python -m bench.faults --write`: the real command with a model of two layers of 32, 120 steps and a",
        "checkpoint every 20. The same facts, whole, are in [faults.json](faults.json).",
        f"{facts['machine']}. Several ran at once: seconds are upper bounds.",
        f"Kinds by the commit at which they were measured: {_commits(rows)}.",
        "",
        f"**{survived} of {len(rows)} kinds of fault survived**, {times:,} faults in all. All are judged alike:",
        "",
        "- the same command has finished the run, and every file that it promises is there, whole;",
        "- the final and the best weights are those of the uninterrupted run to the byte; where the remedy changes how",
        "  things are computed, the loss curve is within rounding, or, where it trains in shorter windows or on a",
        "  smaller model, what its row says;",
        "- each step is in the metrics once; whatever is called a checkpoint is one;",
        "- no process is left behind, and the model of another run in the same workspace is untouched;",
        "- the run itself has reported the fault, in the words under *noticed as*.",
        "",
    ]
    for group in [*GROUPS, *sorted({row["group"] for row in rows} - GROUPS.keys())]:
        of_group = [row for row in rows if row["group"] == group]
        if of_group:
            lines += [f"## {GROUPS.get(group, group)}", "", *_table(of_group), ""]
    for name, title in SERIES.items():
        if name in facts:
            lines += [f"## {title}", "", *_figures(facts[name]), ""]
    return "\n".join(lines)


def _table(rows: list[Facts]) -> list[str]:
    lines = ["| fault | how it is made | noticed as | remedy | result | lost |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row["survived"]:
            name = row["name"] if row["times"] == 1 else f"{row['name']} ({row['times']:,} times)"
            lost = f"{row['seconds_lost']:.1f} s, {row['steps_lost']} steps"
            cells = [name, row["made"], row["noticed"], row["remedy"], row["result"], lost]
        else:
            cells = [row["name"], row["made"], "", "", f"**not survived**: {row['why']}", ""]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return lines


def _figures(facts: Facts) -> list[str]:
    lines = ["| figure | measured |", "|---|---|"]
    return lines + [f"| {_escaped(name)} | {_escaped(_figure(value))} |" for name, value in facts.items()]


def _figure(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _cell(text: str) -> str:
    text = _escaped(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
