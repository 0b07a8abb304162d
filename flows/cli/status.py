"""`--status` and `--plan`: what is done and what would run, and why; both change nothing and need no torch."""

from __future__ import annotations

from dataclasses import replace

import psutil
from rich.console import Console
from rich.table import Table

from flows.cli import at_boot
from flows.ledger.ledger import Step
from flows.report.markdown import byte_size, count, duration
from flows.runner.run import Blocked, Run, by_need, phase_of
from nanogpt.faults import UserError
from nanogpt.machine import memory_bytes
from nanogpt.measure.sizes import parameters

PLAN = "configuration.plan"
MARKS = {"kept": "done", "run": "to do", "waits": "waits"}


def show(run: Run) -> int:
    """A table of every step with its state and the reason."""
    table = Table(title=f"run {run.options.run}: {_state(run)}", title_justify="left")
    for column in ("phase", "step", "state", "reason"):
        table.add_column(column, overflow="fold")
    last = ""
    for step, state, reason in decisions(run):
        phase = phase_of(step)
        table.add_row("" if phase == last else phase, step.name.split(".", 1)[1], MARKS[state], reason)
        last = phase
    console = _console()
    console.print(table)
    if at_boot.is_installed(run.options):
        file = at_boot.service_of(run.options).file
        console.print(f"Started at boot until it is done, by {file}; --uninstall takes it off.")
    return 0


def show_plan(run: Run) -> int:
    """What would run now, with the time and memory that the plan expects, as far as it is known."""
    console = _console()
    table = Table(title=f"run {run.options.run}, budget {duration(run.config.budget)}", title_justify="left")
    for column in ("step", "what happens", "time", "memory"):
        table.add_column(column, overflow="fold")
    rows = decisions(run)
    is_planned = all(state == "kept" for step, state, _ in rows if step.name == PLAN)
    plan = run.ledger.facts(PLAN) if is_planned else {}
    rungs = {f"training.{rung['name']}": rung for rung in plan.get("ladder", [])}
    for step, state, reason in rows:
        seconds = (run.ledger.marker(step.name) or {}).get("seconds")
        rung = rungs.get(step.name)
        time = "" if state == "kept" else duration(rung["seconds"]) if rung else duration(seconds) if seconds else ""
        memory = byte_size(rung["memory_bytes"]) if rung and state != "kept" else ""
        verb = "runs" if state == "run" else state
        table.add_row(step.name, f"{verb}: {reason}", time, memory)
    console.print(table)
    if not plan:
        _show_expected(run, console)
    for row in plan.get("left_out", []):
        console.print(f"{row['name']} is left out: {row['reason']}")
    return 0


def decisions(run: Run) -> list[tuple[Step, str, str]]:
    """Each step with "kept", "run" or "waits" and the reason, as a start would decide now."""
    steps = run.steps()
    named = {step.name: step for step in steps}
    rows: dict[str, tuple[str, str]] = {}
    for step in by_need(map(_with_plan, steps)):
        missing = [name for name in step.needs if rows.get(name, ("run",))[0] != "kept"]
        rows[step.name] = _decision(run, named[step.name], missing)
    return [(step, *rows[step.name]) for step in steps]


def _with_plan(step: Step) -> Step:
    """A training's settings are what the plan writes: before that is made again, nobody knows whether it is kept."""
    return replace(step, needs=(*step.needs, PLAN)) if phase_of(step) == "training" else step


def _decision(run: Run, step: Step, missing: list[str]) -> tuple[str, str]:
    try:
        decision = run.ledger.decide(step, step.settings(run), redo=step.name in run.options.redo)
    except (OSError, UserError, Blocked, KeyError):
        return "waits", "depends on the plan, which is not made yet"
    if missing and decision.keep:
        return "waits", f"for {missing[0]}: kept if its output stays the same"
    return "kept" if decision.keep else "run", decision.reason


def _show_expected(run: Run, console: Console) -> None:
    """Before anything was measured: the other phases by experience, training by what is left, memory by prediction."""
    from flows.phases.configuration import BYTES_PER_BPE_TOKEN
    from flows.planning import budget as pace
    from flows.planning import footprint as demands
    from flows.planning import forecast, planner

    budget, fetched = run.config.budget, run.ledger.facts("dataset.fetch")
    size, alphabet = fetched.get("bytes") or _size_of_text(run), fetched.get("alphabet_size", demands.USUAL_ALPHABET)
    phases = pace.expected(run.paths.state.parent, budget, size)
    known = "The plan is to be made anew." if run.ledger.marker(PLAN) else "Nothing is measured yet."
    told = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in phases.items())
    training = pace.training_seconds(budget, phases)
    console.print(f"{known} About {duration(training)} of the budget go to training; {told}.")
    proved = run.ledger.facts("environment.device")
    device, total = proved.get("device", "cpu"), proved.get("memory_bytes", memory_bytes())
    table = Table(title="models to choose from, as predicted", title_justify="left")
    for column in ("model", "parameters", "memory", "disk at most", ""):
        table.add_column(column, overflow="fold")
    data, left_out = run.config.data, []
    for number, rung in enumerate(run.options.rungs):
        rung = rung.with_changes({"data.tokenizer": planner.tokenizer_for(rung, size, alphabet)})
        rung = demands.with_vocabulary(rung, alphabet)
        fitted = demands.fitted(rung, device, demands.room(device, total))
        of_characters = rung.data.tokenizer == "char"
        bytes_per_token = size / fetched.get("characters", size) if of_characters else BYTES_PER_BPE_TOKEN
        corpus = forecast.Corpus(size, fetched.get("characters", size), alphabet, data.val_fraction,
                                 data.test_fraction, bytes_per_token)  # fmt: skip
        if number and (reason := planner.starved(parameters(rung.model).total, corpus)):  # the first is always trained
            left_out.append(f"{rung.name} is left out: {reason}")
        table.add_row(
            rung.name, count(parameters(rung.model).total), byte_size(demands.memory_needed(fitted or rung, device)),
            byte_size(demands.disk_needed(rung)), "" if fitted else "does not fit into memory",
        )  # fmt: skip
    console.print(table)
    for line in left_out:
        console.print(line)


def _size_of_text(run: Run) -> int:
    """Bytes that are to be learned from, as far as can be told before they are fetched."""
    from nanogpt.data import sources

    source = run.config.data.source
    known = sources.CATALOGUE.get(source)
    if known or source == sources.EMBEDDED:
        return known.bytes if known else sources.CATALOGUE["tiny_shakespeare"].bytes
    return sum(path.stat().st_size for path in sources.own_documents(source))


def _console() -> Console:
    """Reasons hold other programs' words, where [brackets] are no markup."""
    return Console(markup=False, highlight=False)


def _state(run: Run) -> str:
    """How the latest session ended, or that it goes on."""
    session = run.latest_session()
    state = session.get("state", "never started")
    alive = psutil.pid_exists(session.get("pid", 0))
    return "interrupted" if state == "running" and not alive else state
