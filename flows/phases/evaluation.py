"""Phase 6: how good the models are, on text they never saw, against baselines; and whether the project's tests pass."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flows.context.options import CHECKOUT
from flows.ledger.ledger import Outcome, Step
from flows.machine import accelerator
from flows.phases.dataset import remake_damaged
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.data import sources

TEMPERATURES = (0.5, 0.8, 1.0)
SAMPLE_TOKENS = 400
TEST_SECONDS = 600  # a suite that hangs; it takes 25 s on two idle cores
WORKER_SECONDS = 3600.0  # what hangs must not hold a night's run for longer
LEAST_PATIENCE = 300.0  # with an accelerator


def evaluation(run: Run) -> None:
    remake_damaged(run)  # what rotted while the models trained would judge them by other text
    baselines = run.beside(BASELINES)
    run.do(models_step(_trained(run)))
    run.do(SAMPLES)
    run.do(SPEED)
    baselines()
    if run.config.tests:
        run.do(TESTS)
    evaluated = run.facts("evaluation.models")
    best = evaluated["models"][evaluated["best"]]["test"]
    run.display.table("results", [_result_row(name, facts) for name, facts in evaluated["models"].items()], "Results")
    run.milestone(
        "evaluation", f"evaluation: {evaluated['best']} is best, {best['bits_per_byte']:.3f} bits per byte on test",
        f"Test loss {best['loss']:.4f}, perplexity {best['perplexity']:.2f}.",
        [run.paths.markers / f"{step['name']}.json" for step in run.phases[5].steps],
    )  # fmt: skip


def evaluate_models(run: Run, names: Sequence[str]) -> Outcome:
    models = {}
    for name in names:
        folder = run.paths.checkpoints / name
        models[name] = _on_device(run, "summarise", model_folder=folder, data_folder=_data_folder(run, name))
        if not _is_nanogpts_text(run):
            models[name]["nanogpt_loss"] = None
        figures = models[name]["test"]
        run.tell(f"{name}: test loss {figures['loss']:.4f}, perplexity {figures['perplexity']:.2f}, "
                 f"{figures['bits_per_byte']:.3f} bits per byte")  # fmt: skip
    # Chosen by the validation split: the test split judges, once, and decides nothing.
    best = min(models, key=lambda name: models[name]["val"]["bits_per_byte"])
    figures = {name: {key: facts[key] for key in ("val", "test", "nanogpt_loss")} for name, facts in models.items()}
    return Outcome(facts={"best": best, "models": models}, identity={"best": best, "figures": figures})


def write_samples(run: Run) -> Outcome:
    best = run.facts("evaluation.models")["best"]
    facts = _on_device(
        run, "sample_and_judge", model_folder=run.paths.checkpoints / best, text_folder=run.paths.data / "text",
        temperatures=TEMPERATURES, tokens=SAMPLE_TOKENS, seed=_config(run, best)["training"]["seed"],
    )  # fmt: skip
    return Outcome(facts={"model": best, **facts})


def measure_decoding(run: Run) -> Outcome:
    best = run.facts("evaluation.models")["best"]
    facts = _on_device(run, "decoding", model_folder=run.paths.checkpoints / best)
    return Outcome(facts={"model": best, **facts}, identity={})


def compare_baselines(run: Run) -> Outcome:
    from nanogpt.evaluation import baselines

    rows = baselines.compare(run.paths.data / "text")
    return Outcome(facts={
        "bits_per_byte": {row.name: row.bits_per_byte for row in rows},
        "explanations": {row.name: row.explanation for row in rows},
    })  # fmt: skip


def run_fast_tests(run: Run) -> Outcome:
    """The project's own fast tests, in a process of their own. Raises RuntimeError when one fails; that they take too
    long here says nothing against the models: it is told."""
    command = [sys.executable, "-m", "pytest", "-m", "fast", "-p", "no:cacheprovider", "tests"]
    began, timed_out = time.monotonic(), False
    try:
        done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, timeout=TEST_SECONDS,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONOPTIMIZE": ""})  # fmt: skip
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as expired:
        code, output, errors, timed_out = 0, expired.stdout or b"", expired.stderr or b"", True
    said = output.decode("utf-8", "replace")
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", said)}
    facts = {
        "command": "python -m pytest -m fast", "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0), "skipped": counts.get("skipped", 0),
        "seconds": round(time.monotonic() - began, 1), "timed_out": timed_out,
        "tail": "\n".join(said.strip().splitlines()[-15:]),
    }  # fmt: skip
    if code or timed_out:
        durable.write_bytes(run.paths.logs / "tests.log", output + errors)
        log = run.relative(run.paths.logs / "tests.log")
    if code:
        last = (said + errors.decode("utf-8", "replace")).strip().splitlines()[-1:]
        raise RuntimeError(f"the project's tests fail here: {' '.join(last)}; all of it is in {log}")
    if timed_out:
        run.tell(f"the project's tests were stopped after {TEST_SECONDS} s; how far they came is in {log}", "warning")
    return Outcome(facts=facts, identity={"failed": 0})


def _on_device(run: Run, function: str, **arguments) -> dict:
    """A function of nanogpt.evaluation.summary on the run's device; on the CPU when that fails."""
    target = f"nanogpt.evaluation.summary:{function}"

    def work(device: str) -> dict:
        patience = WORKER_SECONDS if device == "cpu" else _patience(run)
        return run.worker.call(target, device=device, timeout=patience, **arguments)

    return accelerator.on_device(run, "evaluation", work)


def _patience(run: Run) -> float:
    """Seconds after which an accelerator is taken to hang: ten times what is planned for the whole phase."""
    planned = next(row["planned_seconds"] for row in run.facts("configuration.plan")["phases"] if row["number"] == 6)
    return min(WORKER_SECONDS, max(LEAST_PATIENCE, 10 * planned))


def _result_row(name: str, facts: dict) -> dict:
    test = facts["test"]
    return {"model": name, "parameters": f"{facts['parameters']:,}", "test loss": f"{test['loss']:.4f}",
            "perplexity": f"{test['perplexity']:.2f}", "bits per byte": f"{test['bits_per_byte']:.3f}"}  # fmt: skip


def _is_nanogpts_text(run: Run) -> bool:
    """nanoGPT's figures are of tiny Shakespeare's last tenth; on other text, or another split, nothing compares."""
    data = run.config.data
    held_out = math.isclose(data.val_fraction + data.test_fraction, 0.1)
    return held_out and run.facts("dataset.fetch")["sha256"] == sources.CATALOGUE["tiny_shakespeare"].sha256


def _trained(run: Run) -> list[str]:
    """The models to judge: one that could not be trained is no reason to leave out the others."""
    names = run.rung_names()
    return [name for name in names if f"training.{name}" in run.finished_steps] or names


def _config(run: Run, name: str) -> dict:
    from nanogpt.config import load_config

    return load_config(run.paths.configs / f"{name}.yaml").model_dump()


def _data_folder(run: Run, name: str) -> Path:
    return run.paths.data / _config(run, name)["data"]["tokenizer"]


def models_step(names: Sequence[str]) -> Step:
    return Step(
        "evaluation.models", "Judge every model on the test split", lambda run: evaluate_models(run, names),
        needs=tuple(f"training.{name}" for name in names),
        code=("nanogpt/evaluation/perplexity.py", "nanogpt/evaluation/summary.py", "nanogpt/model/"),
    )  # fmt: skip


SAMPLES = Step("evaluation.samples", "Write and judge samples", write_samples,
               needs=("evaluation.models", "dataset.clean"),
               code=("nanogpt/evaluation/coherence.py", "nanogpt/evaluation/summary.py",
                     "nanogpt/inference/"))  # fmt: skip
SPEED = Step("evaluation.speed", "Measure decoding", measure_decoding, needs=("evaluation.models",),
             code=("nanogpt/evaluation/speed.py", "nanogpt/inference/", "nanogpt/model/"))  # fmt: skip
BASELINES = Step("evaluation.baselines", "Compare with simple models and xz", compare_baselines,
                 needs=("dataset.clean",), code=("nanogpt.evaluation.baselines",))  # fmt: skip
TESTS = Step("evaluation.tests", "Run the project's fast tests", run_fast_tests,
             code=("tests/nanogpt/", "tests/flows/", "nanogpt/", "flows/"))  # fmt: skip


def steps(models: Sequence[str], tests: bool) -> list[Step]:
    return [BASELINES, models_step(models), SAMPLES, SPEED, *([TESTS] if tests else [])]
