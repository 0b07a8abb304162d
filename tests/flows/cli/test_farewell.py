"""What a person reads last: how good the model is, what it writes, what went wrong, and what to type next."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.farewell import LINES_OF_SAMPLE, WIDTH, farewell, first_lines, wrapped
from flows.ledger.facts import BASELINES, CLEANED, EVALUATED, EXPORTED, REPORTED, SAMPLES, Criterion, Reported
from flows.report import commands
from flows.report.facts import RunFacts
from flows.runner.phase_runner import GoalMissed
from flows.runner.run import Run
from flows.runner.step_runner import StepRecord
from tests.flows import parts
from tests.flows.real_run import finish_now, real_run
from tests.flows.report import report_facts

pytestmark = pytest.mark.fast
CRITERIA = [
    Criterion("It learned", True, ""),
    Criterion("The plan held", False, ""),
    Criterion("Documents", None, ""),
    Criterion("Tests", None, "", had_no_time=True),
]


@pytest.fixture
def facts(tmp_path) -> RunFacts:
    return report_facts.complete_facts(tmp_path / "facts")


def run_with(folder: Path, facts: RunFacts, *arguments: str, bits: float = 2.2, text: str | None = "A sample.") -> Run:
    """A run whose phases are over, with a best model of so many bits per byte that writes `text`."""
    run = real_run(folder / "workspace", "--budget", "10m", *arguments)
    finish_now(run, BASELINES, CLEANED, EXPORTED)
    figures = facts.of(EVALUATED).models["tiny"]
    figures = replace(figures, test=replace(figures.test, bits_per_byte=bits))
    parts.finish(run, EVALUATED, replace(facts.of(EVALUATED), models={"tiny": figures}))
    parts.finish(run, REPORTED, Reported(CRITERIA))
    if text is not None:
        samples = facts.of(SAMPLES)
        written = [replace(sample, text=text) for sample in samples.samples]
        parts.finish(run, SAMPLES, replace(samples, samples=written))
    return run


def has_missed(run: Run) -> None:
    def work() -> None:
        raise GoalMissed("tiny has not learned: 6.000 bits per byte", "python3 -m flows.full_run --budget 1h", "")

    run.phase_runner.run("evaluation", work)


def has_failed(run: Run, phase: str) -> None:
    def work() -> None:
        raise RuntimeError("no remedy is left")

    run.phase_runner.run(phase, work)


def test_a_step_that_failed_while_its_phase_went_on_is_named(tmp_path, facts, monkeypatch):
    run = run_with(tmp_path, facts)
    failed = StepRecord("evaluation.study", "Look into the best model", "failed", "NaN logits", 1.0)
    monkeypatch.setattr(run.step_runner, "records", lambda phase: [failed] if phase == "evaluation" else [])
    assert "6 Evaluation: Look into the best model: failed: NaN logits" in farewell(run)


def test_how_good_it_is_what_it_writes_and_how_to_use_it(tmp_path, facts):
    run = run_with(tmp_path, facts, text="ROMEO:\n\nWhy, then thou\nshalt not see\nthe world to-night.")
    lines = farewell(run)
    assert lines[:6] == [
        "tiny has learned: 2.200 bits per byte on text that it never saw; counting which letter follows which four "
        "others (a 5-gram) gives 2.410.",
        "That is as unsure of each letter as if it chose among 4.6 equally likely ones.",
        "It writes (temperature 0.8):",
        "  | ROMEO:",
        "  | Why, then thou",
        "  | shalt not see",
    ]
    missed = "not reached: The plan held; not known: Documents; not known for lack of time: Tests"
    assert lines[6] == f"Goals reached: 1 of 3; {missed}"
    model = commands.near(run.paths.workspace / run.facts(EXPORTED).folder)
    assert lines[7].startswith("Talk to it:\n  ") and lines[7].endswith(f"nanogpt chat {model}")
    assert lines[8].startswith("Open it in a browser") and lines[8].endswith(f"nanogpt serve {model}")
    assert len(lines) == 9


def test_one_that_loses_to_a_5_gram_is_called_undertrained_with_what_gives_it_more_time(tmp_path, facts):
    lines = farewell(run_with(tmp_path, facts, bits=3.0))
    assert lines[0].startswith("tiny is undertrained: 3.000")
    assert lines[2].startswith("To give it more time:\n  python3 -m flows.full_run") and "--budget 40m" in lines[2]


def test_one_that_has_not_learned_is_named_once_with_the_command_at_the_end(tmp_path, facts):
    run = run_with(tmp_path, facts, bits=6.0)
    has_missed(run)
    lines = farewell(run)
    assert lines[0].startswith("tiny has not learned: 6.000")
    assert lines[-1] == "To give it enough time:\n  python3 -m flows.full_run --budget 1h"
    assert sum("has not learned" in line for line in lines) == 1
    assert not any("more time" in line or "continue with" in line for line in lines)


def test_one_phase_alone_that_finds_it_names_the_trouble(tmp_path, facts):
    run = run_with(tmp_path, facts, "--only", "evaluation", bits=6.0)
    has_missed(run)
    lines = farewell(run)
    assert lines[0] == "6 Evaluation failed: tiny has not learned: 6.000 bits per byte"
    assert lines[-1] == "To give it enough time:\n  python3 -m flows.full_run --budget 1h"


def test_what_failed_is_named_after_the_model_with_the_command_that_continues(tmp_path, facts):
    run = run_with(tmp_path, facts)
    has_failed(run, "deployment")
    lines = farewell(run)
    assert lines[0].startswith("tiny has learned") and "7 Deployment failed: no remedy is left" in lines
    assert lines[-1] == f"When the cause is fixed, continue with:\n  {run.options.command}"


def test_without_a_model_there_is_only_what_failed(tmp_path):
    run = real_run(tmp_path / "workspace")
    has_failed(run, "training")
    assert farewell(run) == [
        "5 Training failed: no remedy is left",
        f"When the cause is fixed, continue with:\n  {run.options.command}",
    ]


# What it writes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", " \t \r\n \x0b\x0c", "\xa0\n\u2003\n"])
def test_a_model_that_writes_only_blanks_is_said_to(tmp_path, facts, text):
    lines = farewell(run_with(tmp_path, facts, text=text))
    assert "It writes nothing but blanks." in lines and not any(line.startswith("  |") for line in lines)


def test_where_it_was_not_asked_to_write_nothing_is_said_of_that(tmp_path, facts):
    assert not any("writes" in line for line in farewell(run_with(tmp_path, facts, text=None)))


def test_what_a_terminal_would_obey_is_shown_instead(tmp_path, facts):
    text = "\x1b]0;owned\x07\x1b[2J red\x9b31m\nafter\rit\n\u202eturned"
    lines = farewell(run_with(tmp_path, facts, text=text))
    assert [line for line in lines if line.startswith("  |")] == [
        "  | \\x1b]0;owned\\x07\\x1b[2J red\\x9b31m", "  | after", "  | it",
    ]  # fmt: skip
    assert not any(unicodedata.category(character) == "Cc" for character in "".join(lines) if character != "\n")


@pytest.mark.parametrize("text, lines", [
    ("a\nb\nc\nd", ["a", "b", "c"]),
    ("\n\n  one\n\n two", ["one", "two"]),
    ("x" * 200, ["x" * 76, "x" * 76, "x" * 48]),
    ("word " * 40, [("word " * 15).strip()] * 2 + [("word " * 10).strip()]),
])  # fmt: skip
def test_three_lines_that_hold_something_and_fit_a_terminal(text, lines):
    assert [line.strip() for line in first_lines(text)] == lines


@given(st.text())
def test_any_text_gives_three_lines_at_most_that_hold_something(text):
    lines = first_lines(text)
    assert len(lines) <= LINES_OF_SAMPLE and bool(lines) == bool(text.strip())
    assert all(line.strip() and len(line) <= WIDTH and len(line.splitlines()) == 1 for line in lines)


def test_a_terminal_gets_lines_that_break_between_words():
    line = "tiny has learned: 2.200 bits per byte on text that it never saw."
    assert wrapped(line, 40) == "tiny has learned: 2.200 bits per byte on\ntext that it never saw."
    assert wrapped(line, 0) == line


def test_what_is_copied_from_a_terminal_is_never_broken():
    command = "To give it more time:\n  python3 -m flows.full_run --budget 40m --set data.mirror=/my/copies"
    assert wrapped(command, 30) == command
    quoted = "  | To be, or not to be, that is the question"
    assert wrapped(quoted, 20) == quoted
