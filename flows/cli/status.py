"""`--status` and `--plan`: what is done and what would run, and why; both change nothing and need no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from flows.cli import at_boot
from flows.context.command_words import AssumedSpeed
from flows.ledger.facts import DEVICE, FETCHED, PLANNED, SURVEYED, FetchedText, trained
from flows.ledger.markers import STARTED
from flows.runner.run import AnyStep, Run, by_need
from flows.runner.sessions import FILE as SESSION
from flows.runner.sessions import read_session
from flows.runner.step_runner import Blocked
from nanogpt.faults import UserError
from nanogpt.spelling import to_be_typed
from nanogpt.units import byte_size, chosen_duration, count, duration, flops

MARKS = {"kept": "done", "run": "to do", "waits": "waits"}


@dataclass(frozen=True)
class Outlook:
    """What a start would do with a step now, and why."""

    step: AnyStep
    state: Literal["kept", "run", "waits"]
    reason: str


def show(run: Run) -> int:
    """A table of every step with its state and the reason."""
    session_state = _state(run)
    table = Table(title=f"run {run.options.run}: {session_state}", title_justify="left")
    for column in ("phase", "step", "state", "reason"):
        table.add_column(column, overflow="fold")
    last = ""
    for outlook in decisions(run):
        phase, _, name = outlook.step.name.partition(".")
        since = _at_work_since(run, outlook.step.name) if session_state == "running" else ""
        marker = run.ledger.marker(outlook.step.name)
        is_left_out = outlook.state == "kept" and marker is not None and marker.left_out
        mark = "left out" if is_left_out else MARKS[outlook.state]
        state, reason = ("at work", f"since {since}") if since else (mark, outlook.reason)
        table.add_row("" if phase == last else phase, name, state, reason)
        last = phase
    console = _console()
    console.print(table)
    for trouble in _troubles(run):
        console.print(trouble)
    if at_boot.is_installed(run.options):
        file = at_boot.service_of(run.options).file
        console.print(f"Started at boot until it is done, by {file}; --uninstall takes it off.")
    return 0


def show_plan(run: Run) -> int:
    """What would run now, with the time and memory that the plan expects, as far as it is known."""
    console = _console()
    if run.options.assumed_speed is not None:
        return _show_assumed(run, run.options.assumed_speed, console)
    table = Table(title=f"run {run.options.run}, budget {chosen_duration(run.config.budget)}", title_justify="left")
    rows = decisions(run)
    is_planned = all(row.state == "kept" for row in rows if row.step.key == PLANNED)
    plan = run.ledger.facts(PLANNED) if is_planned else None
    models = {trained(model.name).step: model for model in plan.ladder} if plan else {}
    cells = []
    for row in rows:
        model, marker = models.get(row.step.name), run.ledger.marker(row.step.name)
        took_time = marker is not None and not marker.left_out and row.step.phase != "training"
        before = marker.seconds if marker and took_time else None
        seconds = None if row.state == "kept" else model.seconds if model else before
        memory = model.memory_bytes if model and row.state != "kept" else None
        happens = f"{'runs' if row.state == 'run' else row.state}: {row.reason}"
        time = duration(seconds) if seconds else ""
        cells.append((row.step.name, happens, time, byte_size(memory) if memory else ""))
    for place, column in enumerate(("step", "what happens", "time", "memory")):
        if any(row[place] for row in cells):  # a column without a figure says nothing
            table.add_column(column, overflow="fold")
    for row_cells in cells:
        table.add_row(*(cell for place, cell in enumerate(row_cells) if any(row[place] for row in cells)))
    expected = _expected_bytes(run) if plan is None else 0  # first what is wrong with the text, which ends in one line
    console.print(table)
    if plan is None:
        _show_expected(run, console, expected)
    for left_out in plan.left_out if plan else []:
        console.print(f"{left_out.name} is left out: {left_out.reason}")
    return 0


def decisions(run: Run) -> list[Outlook]:
    """Each step, as a start would decide now."""
    steps = run.steps()
    named = {step.name: step for step in steps}
    found: dict[str, Outlook] = {}
    for step in by_need(map(_with_plan, steps)):
        missing = [name for name in step.needs if name not in found or found[name].state != "kept"]
        found[step.name] = _decide(run, named[step.name], missing)
    return [found[step.name] for step in steps]


def _with_plan(step: AnyStep) -> AnyStep:
    """A training's settings are what the plan writes: before that is made again, nobody knows whether it is kept."""
    return replace(step, needs=(*step.needs, PLANNED.step)) if step.phase == "training" else step


def _decide(run: Run, step: AnyStep, missing: list[str]) -> Outlook:
    try:
        decision = run.ledger.decide(step, step.settings(run), redo=step.name in run.options.redo)
    except (OSError, UserError, Blocked):
        return Outlook(step, "waits", "depends on the plan, which is not made yet")
    if missing and decision.keep:
        return Outlook(step, "waits", f"for {missing[0]}: kept if its output stays the same")
    return Outlook(step, "kept" if decision.keep else "run", decision.reason)


def _expected_bytes(run: Run) -> int:
    """Of the text. Raises UserError."""
    from flows.planning import texts  # what --status does not need: 0.1 s

    fetched = _fetched(run)
    return fetched.bytes if fetched else texts.expected_bytes(run.config.data)


def _fetched(run: Run) -> FetchedText | None:
    """The text that is there, unless another one is asked for now."""
    marker, data = run.ledger.marker(FETCHED.step), run.config.data
    is_named = data.source != "auto" and not data.mixture
    if is_named and marker is not None and marker.settings.get("data", {}).get("source", data.source) != data.source:
        return None
    return run.ledger.facts(FETCHED)


def _show_expected(run: Run, console: Console, size: int) -> None:
    """Before anything was measured: the other phases by experience, training by what is left, memory by prediction."""
    from flows.planning import budget_shares, planner  # what --status does not need: 0.1 s
    from flows.planning.footprint import disk_needed, fitted, memory_needed
    from flows.planning.forecast import Corpus
    from flows.planning.site import Site
    from nanogpt.machine import memory_bytes
    from nanogpt.measure.sizes import parameters
    from nanogpt.tokenizers.vocabulary import USUAL_ALPHABET, likely_bytes_per_token

    budget, fetched, proof = run.config.budget, _fetched(run), run.ledger.facts(DEVICE)
    characters = (fetched.characters if fetched else 0) or size
    phases = budget_shares.expected(run.paths.all_states, budget, size)
    known = "The plan is to be made anew." if run.ledger.marker(PLANNED.step) else "Nothing is measured yet."
    shares = ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases.items())
    training = budget_shares.training_seconds(budget, phases)
    console.print(f"{known} About {duration(training)} of the budget go to training; {shares}.")
    site = Site(
        device=proof.device if proof else "cpu",
        memory_bytes=proof.memory_bytes if proof else memory_bytes(),
        alphabet_size=(fetched.alphabet_size if fetched else 0) or USUAL_ALPHABET,
    )
    table = Table(title="models to choose from, as predicted", title_justify="left")
    for column in ("model", "parameters", "memory", "disk at most", "fits"):
        table.add_column(column, overflow="fold")
    data, left_out = run.config.data, []
    for number, candidate in enumerate(run.options.candidates):
        tokenizer = planner.tokenizer_for(data.tokenizer, size, site.alphabet_size)
        config = site.settle(candidate.with_changes({"data.tokenizer": tokenizer}))
        fitting = fitted(config, site.device, site.training_bytes)
        corpus = Corpus(
            size,
            characters,
            site.alphabet_size,
            data.val_fraction,
            data.test_fraction,
            likely_bytes_per_token(tokenizer, data.bpe_vocab_size, size / characters),
        )
        total = parameters(config.model).total
        is_known = not run.options.text_by_plan  # else the text is chosen to feed the models
        if number and is_known and (reason := planner.starved(total, corpus)):  # the first is always trained
            left_out.append(f"{candidate.name} is left out: {reason}")
        table.add_row(
            candidate.name,
            count(total),
            byte_size(memory_needed(fitting or config, site.device)),
            byte_size(disk_needed(config)),
            "yes" if fitting else "does not fit into memory",
        )
    console.print(table)
    for line in left_out:
        console.print(line)
    if run.options.text_by_plan:
        _show_texts(run, console)


def _show_texts(run: Run, console: Console) -> None:
    """What the plan chooses from, or how much of it it takes."""
    from flows.planning import texts
    from nanogpt.sources.catalogue import CATALOGUE

    surveyed = run.ledger.facts(SURVEYED)
    table = Table(title="texts to choose from, when the speed is measured", title_justify="left")
    for column in ("text", "for a run of", "size", "where"):
        table.add_column(column, overflow="fold")
    for text in surveyed.texts if surveyed else texts.candidates(run.config.data):
        serves = CATALOGUE[text.name].budget if text.name in CATALOGUE else "any length"
        size = "not known" if text.bytes == texts.UNKNOWN_BYTES else byte_size(text.bytes)
        table.add_row(text.name, serves, size, text.obstacle or text.where)
    console.print(table)
    console.print("nanogpt data list says what each is, and its licence.")
    console.print("--assume-speed N:TOKENS:TIME shows the plan for a speed, such as 30M:4096:400ms.")


def _show_assumed(run: Run, assumed: AssumedSpeed, console: Console) -> int:
    """The plan for a machine that takes so long for a step."""
    from flows.planning import texts  # what --status does not need: 0.3 s
    from flows.planning.assumed import plan_for
    from nanogpt.machine import memory_bytes

    proof, asked = run.ledger.facts(DEVICE), run.config.device.type
    device = asked if asked != "auto" else proof.device if proof else "cpu"
    memory, free = memory_bytes(), shutil.disk_usage(_existing(run.options.workspace)).free
    plan = plan_for(run.options, assumed, device, memory, free, texts.candidates(run.config.data), run.paths.all_states)
    rate = flops(assumed.flops_per_second)
    console.print(f"As if every model were trained at {rate}, with {byte_size(memory)} of memory on {device}:")
    if plan.text is not None:
        console.print(f"{texts.described(plan.text)}.")
    table = Table(title=f"a budget of {chosen_duration(plan.budget_seconds)}", title_justify="left", box=SIMPLE_HEAD,
                  show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    table.add_column("model", no_wrap=True)
    is_wide = console.width >= 72  # else there is no room for the memory, and figures would be cut
    last = ["memory", "bits per\nbyte, about"] if is_wide else ["bits per\nbyte"]
    for column in ("parameters", "steps", "tokens", "time", *last):
        table.add_column(column, justify="right", no_wrap=True)
    for model in plan.ladder:
        table.add_row(
            model.name,
            count(model.parameters),
            f"{model.steps:,}",
            count(model.tokens),
            duration(model.seconds),
            *([byte_size(model.memory_bytes)] if is_wide else []),
            f"{model.expected_bits_per_byte:.2f}",
        )
    console.print(table)
    for model in plan.ladder:
        console.print(f"{model.name}: {model.why}")
    for left_out in plan.left_out:
        console.print(f"{left_out.name} is left out: {left_out.reason}")
    console.print("phases: " + ", ".join(f"{name} {duration(seconds)}" for name, seconds in plan.phase_seconds.items()))
    return 0


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _console() -> Console:
    """Reasons hold other programs' words, where [brackets] are no markup."""
    return Console(markup=False, highlight=False)


def _troubles(run: Run) -> list[str]:
    """What did not end well in the latest session, and what to do about it."""
    session = read_session(run.paths.state)
    lines = []
    for note in session.phases if session else []:
        if note.cause:
            lines.append(f"{note.number} {note.title} {note.status}: {note.cause}")
        if note.next_command:
            lines.append(f"  next: {to_be_typed(note.next_command)}")
    return lines


def _at_work_since(run: Run, step: str) -> str:
    """When the session that is running began with this step; "" for one that it does not do now."""
    marker = run.ledger.marker(step)
    if marker is None or marker.state != STARTED:
        return ""
    try:
        files = run.paths.markers / f"{step}.json", run.paths.state / SESSION
        touched, began = (file.stat().st_mtime for file in files)
    except OSError:
        return ""
    return marker.started_at[:19] if touched >= began else ""  # else it was interrupted in an earlier session


def _state(run: Run) -> str:
    """How the latest session ended, or that it is running."""
    session = read_session(run.paths.state)
    if session is None:
        return "never started"
    return "interrupted" if session.state == "running" and not session.is_running else session.state
