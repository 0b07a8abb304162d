"""What a person reads after a run: the report and its HTML twin, README, troubleshooting, system report.

Everything is rendered from facts by the templates of `templates/`. Two rules hold for all of it:
- whatever a template prints passes `markdown.safe`, so that no sample and no file name can become markup;
- a part whose facts are not as its template expects says so in its place, and the rest is still written: a run never
  ends without a report.
The same facts give the same bytes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from flows.context.paths import CHECKOUT, TEMPLATES, from_checkout
from flows.ledger.facts import DEVICE, SYSTEM, System
from flows.report import markdown
from flows.report.commands import as_here, with_option
from flows.report.curves import Chart, charts
from flows.report.facts import PhaseFacts, RunFacts
from flows.report.first_screen import answers
from flows.report.judgement import best_model, criteria, trained_models
from flows.report.pages import render_page
from flows.report.recommendations import recommendations
from flows.report.verdict import verdict
from flows.supervision import remedies
from nanogpt import durable
from nanogpt.evaluation.known_results import NANOGPT_CPU_RECIPE
from nanogpt.records import to_json
from nanogpt.results.machine import DeviceProof
from nanogpt.sources import catalogue
from nanogpt.spelling import to_be_typed
from nanogpt.training.record.metrics import evaluations_with_tokens, read_metrics, read_rows

View = dict[str, Any]  # what a template sees: facts as they stand in facts.json
UNEXPECTED_FACTS = (UndefinedError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
MANY_COLUMNS, SEVERAL_COLUMNS = 8, 5
LENGTH_OF_SAMPLE = 110  # characters
LONG_CELL = 60  # characters; six columns of less fit on a page
FOLDED = (  # parts that few readers want at once
    "The machine",
    "Component checks",
    "The project's own tests",
    "What ran and what was kept",
    "Git commits",
    "Repeat this run",
)
PICTURE_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def render(facts: RunFacts, folder: Path, figures: dict[str, Path]) -> list[Path]:
    """Write all documents of a run into `folder`; returns their paths, the report first. Raises OSError.

    `figures` go into the report by name: {model}-loss, {model}-learning-rate, {model}-speed, comparison, baselines,
    tokens, timeline, phase-times; one that is not there is left out.
    """
    system = render_system_report(facts.of(SYSTEM), facts.of(DEVICE), folder / "system_report.md", facts)
    context = _context(facts, folder, figures)
    guides = [
        _render("run_readme.md.j2", folder / "README.md", context),
        _render("troubleshooting.md.j2", folder / "troubleshooting.md", context),
    ]
    report, page = folder / "training_report.md", folder / "training_report.html"
    written = [report, page, *guides, system]
    context = _context(replace(facts, documents=[path.name for path in written]), folder, figures)
    _render("training_report.md.j2", report, context)
    text, title = report.read_text(encoding="utf-8"), f"Training report of {facts.run}"
    durable.write_text(page, to_html(text, title, folder, list(figures.values()), charts(facts)))
    return written


def render_system_report(
    system: System | None, device: DeviceProof | None, path: Path, facts: RunFacts | None = None
) -> Path:
    """Write the system compatibility report; phase 1 calls this alone, before there are other facts."""
    known = {SYSTEM.step: system, DEVICE.step: device}
    steps = dict(facts.steps) if facts else {}
    steps |= {name: to_json(value) for name, value in known.items() if value is not None}
    return _render("system_report.md.j2", path, {"steps": steps})


def to_html(markdown: str, title: str, folder: Path, pictures: list[Path], curves: Mapping[str, Chart]) -> str:
    """One self-contained page: `markdown` with tables, raw HTML shown as text, `pictures` inside as data URIs.

    Pictures are named in the Markdown by their path relative to `folder`; one whose name is among `curves` can be
    zoomed into, where JavaScript runs.
    """
    sources = {_relative(path, folder): path for path in pictures}
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    contents = _name_headings(tokens)
    _label_cells(tokens)
    for paragraph, inline in pairwise(tokens):
        for child in inline.children or ():
            if child.type == "image" and (path := sources.get(str(child.attrs["src"]))):
                child.attrs["src"] = _data_uri(path)
                paragraph.attrs["class"] = "figure"
                if path.stem in curves:
                    paragraph.attrs["data-chart"] = path.stem
    body = parser.renderer.render(_in_parts(tokens), parser.options, {})
    # a table wider than the page scrolls by itself, the page does not
    body = re.sub("(<table[ >])", r'<div class="table">\1', body).replace("</table>", "</table></div>")
    # a figure holds what no paragraph may: the curves that the script puts there
    body = re.sub("<code.*?</code>", _unbroken, body, flags=re.DOTALL)
    framed = r'<div class="figure"\1><div class="picture">\2</div></div>'
    body = re.sub('<p class="figure"([^>]*)>(.*?)</p>', framed, body, flags=re.DOTALL)
    data = Markup(_json_in_html({name: to_json(chart) for name, chart in curves.items()}))
    return render_page("page.html.j2", title=title, body=Markup(body), contents=contents, curves=data)


def _unbroken(code: re.Match[str]) -> str:
    """Options of a command stay in one piece at the end of a line, where a browser breaks after a hyphen."""
    return re.sub(r"(?<=[\s>])--\w[\w-]*", r'<span class="option">\g<0></span>', code[0])


def _json_in_html(value: Any) -> str:
    """JSON that no text in it can end early."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _in_parts(tokens: list[Token]) -> list[Token]:
    """The first screen in one element, and each second-level heading with what follows it in a part that folds."""
    parts, closing = [], ""
    for place, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h1":
            parts.append(_raw('<header class="first-screen">'))
            closing = "</header>"
        if token.type == "heading_open" and token.tag == "h2":
            anchor, title = token.attrs.pop("id", ""), tokens[place + 1].content
            is_open = "" if title in FOLDED else " open"
            parts.append(_raw(f'{closing}<details class="part" id="{anchor}"{is_open}><summary>'))
            closing = "</details>"
        parts.append(token)
        if token.type == "heading_close" and token.tag == "h2":
            parts.append(_raw("</summary>"))
    return [*parts, _raw(closing)]


def _raw(html: str) -> Token:
    return Token("html_block", "", 0, content=html)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, finalize=markdown.safe, autoescape=True,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(markdown.FILTERS, to_be_typed=to_be_typed)
    environment.filters["markdown"] = Markup  # for text that this package wrote itself
    return environment


def _context(facts: RunFacts, folder: Path, figures: dict[str, Path]) -> View:
    """What the templates of a whole run can name."""
    view = to_json(facts)
    phases = {phase.name: phase for phase in facts.phases}
    best = best_model(facts)

    def figure(name: str, alternative: str) -> Markup:
        if name not in figures:
            return Markup("")
        return Markup(f"![{markdown.safe(alternative)}](<{_relative(figures[name], folder)}>)\n")

    def view_of(name: str) -> View | None:
        return next((model for model in view["models"] if model["name"] == name), None)

    return {
        "facts": view,
        "steps": view["steps"],
        "known": NANOGPT_CPU_RECIPE,
        "about_text": catalogue.description,
        "phases": phases,
        "checkout": str(CHECKOUT),
        "figure": figure,
        "best": view_of(best.name) if best else None,
        "trained": [view_of(model.name) for model in trained_models(facts)],
        "verdict": verdict(facts),
        "criteria": lambda: criteria(facts),
        "as_here": as_here,
        "answers": lambda: answers(facts),
        "recommendations": lambda: recommendations(facts),
        "findings": lambda step: (
            _findings(view["steps"].get(step), figure) or _without(phases[step.partition(".")[0]], step)
        ),
        "curve": _curve,
        "reached": _best_bits_per_byte,
        "written_while_training": _last_samples,
        "losses_by_source": _losses_by_source,
        "samples_over_time": _samples_over_time,
        "absent": lambda name: _absent(phases[name]),
        "without": lambda step: _without(phases[step.partition(".")[0]], step),
        "sentence": markdown.sentence,
        "with_option": with_option,
        "configuration": lambda config: yaml.safe_dump(config, sort_keys=False, allow_unicode=True).strip(),
        "quoted": shlex.quote,
        "typed_path": lambda folder: shlex.quote(from_checkout(Path(folder))),
        "python_text": repr,
        "remedies": remedies.TABLE,
    }


def _absent(phase: PhaseFacts) -> Markup:
    """Why a phase left no figures, and the command that continues."""
    text = f"Nothing here: phase {phase.number} {markdown.safe(phase.title)}, {markdown.safe(phase.status)}"
    text += f" – {markdown.sentence(phase.cause)}" if phase.cause else "."
    if phase.next_command:
        text += f" Next: {markdown.code(phase.next_command)}"
    return Markup(text)


def _without(phase: PhaseFacts, name: str) -> Markup:
    """Why one step left no figures: its own failure, or else what became of its phase."""
    failed = next((step for step in phase.steps if step.name == name and step.state == "failed"), None)
    return Markup(f"**Failed:** {markdown.sentence(failed.reason)}") if failed else _absent(phase)


def _findings(found: View | None, figure: Callable[[str, str], Markup]) -> Markup:
    """What a step of the evaluation found, as bullets, and its figures, each with its name as the text of it."""
    if found is None:
        return Markup("")
    if found.get("left_out"):
        return Markup(f"Left out: {markdown.sentence(found['left_out'])}")
    names = [Path(name).stem for name in found.get("figures", [])]
    pictures = [figure(name, name.replace("-", " ")) for name in names]
    return Markup("\n").join([markdown.bullets(found["findings"]), Markup(""), *pictures])


def _curve(model: View, most: int = 12) -> list[View]:
    """At most about `most` of a model's evaluations, evenly spread, with the last and the best."""
    evaluations = read_metrics(Path(model["folder"]))[1]
    if len(evaluations) <= most:
        return evaluations
    best = min(range(len(evaluations)), key=lambda i: evaluations[i].get("val_loss") or float("inf"))
    spread = {round(i * (len(evaluations) - 1) / (most - 1)) for i in range(most)}
    return [evaluations[i] for i in sorted(spread | {best})]


def _losses_by_source(model: View) -> list[View]:
    """Of each text of a mixture: the mean training loss in the first and the last tenth of the rows; else []."""
    rows = [row["loss_by_source"] for row in read_metrics(Path(model["folder"]))[0] if row.get("loss_by_source")]
    tenth = max(1, len(rows) // 10)
    ends = {"first": rows[:tenth], "last": rows[-tenth:]}
    return [
        {"source": source, **{end: _mean([row.get(source) for row in part]) for end, part in ends.items()}}
        for source in dict.fromkeys(name for row in rows for name in row)
    ]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _best_bits_per_byte(model: View) -> float | None:
    evaluations = read_metrics(Path(model["folder"]))[1]
    return min((row["bits_per_byte"] for row in evaluations if row.get("bits_per_byte") is not None), default=None)


def _last_samples(model: View) -> list[View]:
    """The newest round of samples that were written while training, coolest first."""
    rows = list(read_rows(Path(model["folder"]) / "samples.jsonl"))
    return sorted((row for row in rows if row["step"] == rows[-1]["step"]), key=lambda row: float(row["temperature"]))


def _samples_over_time(model: View) -> list[View]:
    """What each round of samples began with at the lowest temperature, and the nearest loss; [] for a single round."""
    folder = Path(model["folder"])
    rounds: dict[int, View] = {}
    for row in read_rows(folder / "samples.jsonl"):
        rounds[row["step"]] = min(rounds.get(row["step"], row), row, key=lambda one: float(one["temperature"]))
    train, judged = read_metrics(folder)
    rows = []
    for step, sample in sorted(rounds.items()):
        figures = min(judged, key=lambda row: abs(float(row["step"]) - step), default={})
        tokens = evaluations_with_tokens(train, [{"step": step}])[0].get("tokens")
        line = " / ".join(part.strip() for part in sample["text"].splitlines() if part.strip())[:LENGTH_OF_SAMPLE]
        rows.append({"step": step, "val_loss": figures.get("val_loss"), "tokens": tokens, "text": line})
    return rows if len(rows) > 1 else []


def _render(template_name: str, path: Path, context: View) -> Path:
    """Render a template block by block, so that facts missing from one part cost that part alone."""
    template = _environment().get_template(template_name)
    parts = []
    for name, block in template.blocks.items():
        try:
            parts.append("".join(block(template.new_context(context))))
        except UNEXPECTED_FACTS as error:
            heading = name.replace("_", " ").capitalize()
            reason = markdown.safe(f"{type(error).__name__}: {error}")
            parts.append(f"## {heading}\n\nThis part could not be written from the facts there are ({reason}).\n")
    text = "\n".join(part.strip("\n") + "\n" for part in parts if part.strip())
    durable.write_text(path, re.sub(r"\n{4,}", "\n\n\n", text))
    return path


def _name_headings(tokens: list[Token]) -> list[dict[str, str]]:
    """Give second-level headings an anchor; returns the page's table of contents."""
    contents: list[dict[str, str]] = []
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.tag == "h2":
            text = "".join(child.content for child in inline.children or ())
            anchor = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
            while anchor in {entry["anchor"] for entry in contents}:
                anchor += "-again"
            opening.attrs["id"] = anchor
            contents.append({"anchor": anchor, "text": text})
    return contents


def _label_cells(tokens: list[Token]) -> None:
    """Each cell knows its column's name: tables of many columns, or of long words in several, are cards on a phone."""
    names: list[str] = []
    for opening, content in pairwise(tokens):
        if opening.type == "table_open":
            table, names = opening, []
        elif opening.type == "th_open":
            names.append(content.content)
            if len(names) == MANY_COLUMNS:
                table.attrs["class"] = "many"
        elif opening.type == "tr_open":
            column = iter(names)
        elif opening.type == "td_open":
            opening.attrs["data-label"] = next(column)
            if len(names) >= SEVERAL_COLUMNS and len(content.content) > LONG_CELL:
                opening.attrs["class"], table.attrs["class"] = "long", "wordy"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _data_uri(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{PICTURE_TYPES[path.suffix]};base64,{data}"
