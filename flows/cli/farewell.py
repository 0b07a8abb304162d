"""What a person reads last on the terminal: what the run made, how good that is, and how to use it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from flows.ledger.facts import EVALUATED, EXPORTED, REPORTED, SAMPLES, Criterion
from flows.report import commands
from flows.report.facts import RunFacts, collect
from flows.report.judgement import not_reached, reached
from flows.report.verdict import in_words, verdict
from flows.runner.run import Run
from nanogpt.printable import printable
from nanogpt.spelling import to_be_typed

LINES_OF_SAMPLE, WIDTH = 3, 76


def farewell(run: Run) -> list[str]:
    """The lines, for a run that ended by itself."""
    return [printable(line) for line in _lines(run)]


def _lines(run: Run) -> Iterator[str]:
    troubles = [record for record in run.phase_runner.records if record.has_failed]
    is_judged = run.options.only is None and run.has_finished(EVALUATED)
    if is_judged:
        yield from _model(collect(run))
    for record in troubles:
        if not (record.is_over and is_judged):  # else the model's headline says it
            yield f"{record.label} {record.status}: {record.cause}"
    for record in run.phase_runner.records:
        failed = [step for step in run.step_runner.records(record.name) if step.state == "failed"]
        if not record.has_failed:  # the run went on without them
            yield from (f"{record.label}: {step.title}: failed: {step.reason}" for step in failed)
    if run.has_finished(REPORTED) and (reported := run.ledger.facts(REPORTED)):
        yield _criteria(reported.criteria)
    if run.paths.report.exists():
        yield f"Report: {commands.near(run.paths.report)}"
    if run.session.prefect_url:
        yield f"Pages:  {run.session.prefect_url}"
    if run.has_finished(EXPORTED) and (exported := run.ledger.facts(EXPORTED)):
        model = run.paths.workspace / exported.folder
        yield f"Talk to it:\n  {commands.chat(model)}"
        yield f"Open it in a browser, or from other programs:\n  {commands.serve(model)}"
    if unmet := [record for record in troubles if record.is_over]:
        yield f"To give it enough time:\n  {to_be_typed(unmet[0].next_command or run.options.command)}"
    elif troubles:
        yield f"When the cause is fixed, continue with:\n  {to_be_typed(run.options.command)}"


def _model(facts: RunFacts) -> Iterator[str]:
    """The best model: how good it is, in a figure and in words, and three lines that it wrote."""
    evaluated, samples, found = facts.of(EVALUATED), facts.of(SAMPLES), verdict(facts)
    if evaluated is None:
        return
    bits = evaluated.models[evaluated.best].test.bits_per_byte
    headline = found.headline if found else f"{evaluated.best}: {bits:.3f} bits per byte on text that it never saw"
    yield f"{headline}."
    yield f"That is {in_words(facts, bits)}."
    if found and found.level == "undertrained":
        yield f"To give it more time:\n  {to_be_typed(found.command)}"
    if samples and samples.samples:
        sample = samples.samples[len(samples.samples) // 2]
        lines = first_lines(sample.text)
        yield f"It writes (temperature {sample.temperature:g}):" if lines else "It writes nothing but blanks."
        yield from (f"  | {line}" for line in lines)


def wrapped(line: str, width: int) -> str:
    """`line` for a terminal of `width` columns, broken between words; 0: a file. What is typed or quoted, which is
    indented, stays as it is: a command is copied whole."""
    parts = line.split("\n")
    if not width or parts[0].startswith(" "):
        return line
    return "\n".join([textwrap.fill(parts[0], width, break_long_words=False, break_on_hyphens=False), *parts[1:]])


def first_lines(text: str) -> list[str]:
    """The first three lines of a text that hold something, cut to the width of a terminal."""
    wrapped = (part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH))
    return [line for line, _ in zip(wrapped, range(LINES_OF_SAMPLE), strict=False)]


def _criteria(judged: Sequence[Criterion]) -> str:
    others = [f"{words}: {', '.join(goal.name for goal in goals)}" for words, goals in not_reached(judged).items()]
    return "; ".join([f"Goals reached: {reached(judged)}", *others])
