"""Phase 7: the best model is exported in a form that other programs open, and every example runs on it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from flows.context.paths import CHECKOUT
from flows.ledger.facts import (
    BASELINES,
    EVALUATED,
    EXAMPLES,
    EXPORTED,
    SAMPLES,
    Example,
    Examples,
    Exported,
    ExportedFile,
    Key,
)
from flows.ledger.steps import Json, StepResult
from flows.report import cards
from flows.report.facts import collect, facts_of
from flows.runner.run import AnyStep, Phase, Run, Step
from nanogpt import durable
from nanogpt.export.card import text
from nanogpt.records import to_json
from nanogpt.units import MIB

EXAMPLE_SECONDS = 90
EXPORT_SECONDS = 600.0
AS_BEFORE = ("--seed", "1")  # so that the same model gives the same examples
BEST = "best"  # the export's folder, whichever model it is: what people type stays the same
FIRST_EXAMPLE = "complete.py"
BYTES_OF_A_PROCESS = 512 * MIB  # Python with torch: 330 MiB here
CONVERSATION = "Who are you?\nWhat do you think of the king?\n"  # what a person would type to the chat


def deployment(run: Run) -> None:
    export(run)
    run.do(EXAMPLES)


def export(run: Run) -> None:
    run.do(EXPORTED)
    for card in cards.copy_to_models(run.models(), run.paths):
        run.journal.log(f"{run.paths.relative(card)} was not the model's whole card: written again")


def export_best(run: Run) -> StepResult[Exported]:
    best = run.facts(EVALUATED).best
    folder, facts = run.paths.exports / BEST, collect(run)
    card = cards.of_run(facts, best)
    written = [*cards.write_all(facts, run.paths), *cards.write(card, run.paths.state / "model_card.md")]
    before = set(folder.parent.glob(f"{BEST}.*"))
    files: list[Path] = run.worker.call(
        "nanogpt.export.huggingface:export_trained",
        model_folder=run.paths.model(best),
        folder=folder,
        card=text(card) if card else None,
        own=True,
        timeout=EXPORT_SECONDS,
    )
    for aside in set(folder.parent.glob(f"{BEST}.*")) - before:
        run.journal.message(
            f"{run.paths.relative(folder)} was no export, or half of one: it is now {aside.name}", "warning"
        )
    rows = [ExportedFile(run.paths.relative(path), path.stat().st_size, durable.sha256_file(path)) for path in files]
    facts_of_export = Exported(best, run.paths.relative(folder), rows, sum(row.bytes for row in rows))
    return StepResult(facts_of_export, [*files, *written])


def _what_the_card_says(run: Run) -> Json:
    """By digest, what was found out about the models besides their figures; where it is missing, the export is made
    all the same."""
    shown: tuple[Key[Any], ...] = (SAMPLES, BASELINES)
    known = [key.step for key in shown if facts_of(run, key) is not None]
    return {"card": {step: run.ledger.output_digest(step) for step in known}}


def run_examples(run: Run) -> StepResult[Examples]:
    """Every file in examples/, on the exported model, as a person would run it; one that fails fails the step. A run
    that is late runs the first alone."""
    exported = run.facts(EXPORTED)
    scripts = sorted((CHECKOUT / "examples").glob("*.py"))
    chosen = [script for script in scripts if script.name == FIRST_EXAMPLE] if run.is_late else scripts
    with ThreadPoolExecutor(_at_once(exported.bytes)) as pool:
        rows = list(pool.map(lambda script: _run_example(script, run.paths.workspace / exported.folder), chosen))
    file = run.paths.state / "examples.json"
    durable.write_json(file, [to_json(row) for row in rows])
    failed = [row.name for row in rows if row.exit_code]
    if failed:
        where = run.paths.relative(file)
        raise RuntimeError(f"examples failed: {', '.join(failed)}; their output is in {where}")
    return StepResult(Examples(rows), [file], identity={row.name: row.output for row in rows})


def _at_once(model_bytes: int) -> int:
    """How many examples may run at a time: one a core, as far as there is memory for them."""
    each = BYTES_OF_A_PROCESS + 3 * model_bytes
    return max(1, min(os.cpu_count() or 1, psutil.virtual_memory().available // each))


def _run_example(script: Path, model: Path) -> Example:
    arguments = [str(script.relative_to(CHECKOUT)), str(model), *AS_BEFORE]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        input=CONVERSATION,
        capture_output=True,
        text=True,
        timeout=EXAMPLE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "NO_COLOR": "1"},
    )
    return Example(
        name=script.stem,
        command=shlex.join(["python3", arguments[0], _from_checkout(model), *AS_BEFORE]),
        exit_code=done.returncode,
        seconds=round(time.monotonic() - began, 1),
        output=(done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip(),
    )


def _from_checkout(path: Path) -> str:
    """`path` as a person types it who stands in the checkout, where the examples are."""
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)


MODEL = (
    "flows/phases/deployment.py",
    "nanogpt/model/**",
    "nanogpt/weights/**",
    "nanogpt/data/tokenizer.py",
    "nanogpt/data/vocabulary.py",
    "nanogpt/data/preprocessing.py",
)
STEPS: list[AnyStep] = [
    Step(
        key=EXPORTED,
        title="Export the best model",
        work=export_best,
        settings=_what_the_card_says,
        needs=("evaluation.models",),
        code=(
            *MODEL,
            "nanogpt/export/huggingface.py",
            "nanogpt/export/target.py",
            *cards.CODE,
        ),
    ),
    Step(
        key=EXAMPLES,
        title="Run the examples on it",
        work=run_examples,
        needs=("deployment.export",),
        code=(*MODEL, "examples/*.py", "nanogpt/inference/**", "nanogpt/decoders/**", "nanogpt/printable.py"),
    ),
]
PHASE = Phase("deployment", deployment, lambda wanted: STEPS)
