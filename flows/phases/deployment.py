"""Phase 7: the best model is exported in a form that other programs open, and every example runs on it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from flows.context.options import CHECKOUT
from flows.ledger.ledger import Outcome, Step
from flows.phases.documentation import collect
from flows.report import documents
from flows.runner.run import Run
from nanogpt import durable

EXAMPLE_SECONDS = 90
CONVERSATION = "Who are you?\nWhat do you think of the king?\n"  # what a person would type to the chat


def deployment(run: Run) -> None:
    run.do(EXPORT)
    run.do(EXAMPLES)


def export_best(run: Run) -> Outcome:
    best = run.facts("evaluation.models")["best"]
    folder = run.paths.exports / best
    card_facts = documents.model_card_facts(collect(run), best)
    card = documents.render_model_card(card_facts, run.paths.state / "model_card.md")
    run.worker.call("nanogpt.export.huggingface:export_trained", model_folder=run.paths.checkpoints / best,
                    folder=folder, card=card.read_text(encoding="utf-8"), timeout=600)  # fmt: skip
    files = sorted(path for path in folder.iterdir() if path.is_file())
    rows = [{"path": run.relative(path), "bytes": path.stat().st_size, "sha256": durable.sha256_file(path)}
            for path in files]  # fmt: skip
    facts = {"model": best, "folder": run.relative(folder), "files": rows, "bytes": sum(row["bytes"] for row in rows)}
    return Outcome(files, facts)


def run_examples(run: Run) -> Outcome:
    """Every file in examples/, on the exported model, as a person would run it; one that fails fails the step."""
    model = run.paths.workspace / run.facts("deployment.export")["folder"]
    rows = []
    for script in sorted((CHECKOUT / "examples").glob("*.py")):
        arguments = [str(script.relative_to(CHECKOUT)), str(model)]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, *arguments], cwd=CHECKOUT, input=CONVERSATION, capture_output=True, text=True,
            timeout=EXAMPLE_SECONDS, env={**os.environ, "PYTHONPATH": str(CHECKOUT), "NO_COLOR": "1"},
        )  # fmt: skip
        rows.append({
            "name": script.stem, "command": shlex.join(["python", arguments[0], _from_checkout(model)]),
            "exit_code": done.returncode, "seconds": round(time.monotonic() - began, 1),
            "output": (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip(),
        })  # fmt: skip
    file = run.paths.state / "examples.json"
    durable.write_json(file, rows)
    failed = [row["name"] for row in rows if row["exit_code"]]
    if failed:
        raise RuntimeError(f"examples failed: {', '.join(failed)}; their output is in {run.relative(file)}")
    return Outcome([file], {"examples": rows}, identity={row["name"]: row["output"] for row in rows})


def _from_checkout(path: Path) -> str:
    """`path` as a person types it who stands in the checkout, where the examples are."""
    return str(path.relative_to(CHECKOUT) if path.is_relative_to(CHECKOUT) else path)


EXPORT = Step("deployment.export", "Export the best model", export_best, needs=("evaluation.models",),
              code=("flows.phases.deployment", "nanogpt/export/", "nanogpt/weights/"))  # fmt: skip
EXAMPLES = Step("deployment.examples", "Run the examples on it", run_examples, needs=("deployment.export",),
                code=("flows.phases.deployment", "examples/", "nanogpt/inference/"))  # fmt: skip
STEPS = [EXPORT, EXAMPLES]
