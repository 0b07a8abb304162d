"""A run's workspace and a training's folder as they stand at one moment, written as the run and the trainer do."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

from nanogpt import durable
from nanogpt.records import to_json
from nanogpt.results.training import Heartbeat, TrainingOutcome

HEARTBEAT = Heartbeat(
    step=300, expected_steps=1000, activity="training", seconds=30.0, loss=1.9, val_loss=1.95,
    tokens_per_second=20_000.0, memory_bytes=400 << 20, eta_seconds=70.0,
)  # fmt: skip
OUTCOME = TrainingOutcome(
    status="finished", reason="max_iters", step=1000, seconds=100.0, tokens=768_000, best_val_loss=1.5, best_step=1000,
    best_is_average=False, skipped=0, rewinds=0, final_val_loss=1.5, sha256=None, parameters=796_544,
    tokens_per_second=20_000.0, peak_memory_bytes=400 << 20, device="cpu", precision="float32", micro_batch=12,
    context=64,
)  # fmt: skip
PHASES = ("Environment", "Implementation", "Configuration", "Dataset", "Training", "Evaluation")


def add_rows(path: Path, *rows: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def make_training(folder: Path, steps: int = 300, age: float = 0.0) -> Path:
    """A training at step `steps`, whose last sign of life is `age` seconds old."""
    rows = [
        {"kind": "train", "step": step, "loss": 4.2 * step**-0.15, "tokens_per_second": 20_000.0, "seconds": step / 10,
         "memory_bytes": 400 << 20, "learning_rate": 0.01, "grad_norm": 1.0}
        for step in range(1, steps + 1, 4)
    ]  # fmt: skip
    evaluations = [
        {"kind": "eval", "step": step, "val_loss": 4.3 * step**-0.15, "bits_per_byte": 2.5, "seconds": step / 10}
        for step in range(100, steps + 1, 100)
    ]
    add_rows(folder / "metrics.jsonl", *rows, *evaluations)
    add_rows(folder / "samples.jsonl", {"step": 100, "temperature": 0.8, "text": "To be\n\x1b[31mor not"})
    add_rows(folder / "events.jsonl", {"event": "started", "step": 0, "time": time.time() - 30, "message": "tiny"})
    beat(folder, replace(HEARTBEAT, step=steps), age)
    return folder


def beat(folder: Path, heartbeat: Heartbeat, age: float = 0.0) -> None:
    durable.write_json(folder / "heartbeat", to_json(replace(heartbeat, time=time.time() - age)))


def finish(folder: Path) -> None:
    """As the trainer does at its end."""
    beat(folder, replace(HEARTBEAT, step=1000, activity="finished", eta_seconds=0.0))
    durable.write_json(folder / "outcome.json", to_json(OUTCOME))


def make_run(workspace: Path, *, state: str = "running", pid: int | None = None) -> Path:
    """checkpoints/default of a run that trains: micro has ended, tiny_model is at work, small_model is to come."""
    notes = workspace / "state" / "default"
    phases = [{"number": number, "title": title, "status": "waiting"} for number, title in enumerate(PHASES, 1)]
    if state == "failed":
        phases[5] |= {"status": "failed", "cause": "the model has not learned"}
    session = {"started": "", "sessions": 1, "state": state, "pid": pid or os.getpid(), "command": "", "phases": phases}
    durable.write_note(notes / "session.json", session)
    models = [("micro", 60.0), ("tiny_model", 300.0), ("small_model", 500.0)]
    ladder = [{"name": name, "parameters": 10_000, "max_iters": 900, "seconds": seconds} for name, seconds in models]
    planned = [
        {"number": 5, "title": "Training", "planned_seconds": 860.0},
        {"number": 6, "title": "Evaluation", "planned_seconds": 80.0},
    ]
    durable.write_json(notes / "plan.json", {"budget_seconds": 1000.0, "ladder": ladder, "phases": planned})
    durable.write_note(notes / "clock.json", {"budget_seconds": 1000.0, "spent_seconds": 100.0, "finished": False})
    steps = [("environment.device", "finished"), ("dataset.fetch", "finished"), ("training.tiny_model", "started")]
    for step, marker in steps:
        durable.write_json(notes / "markers" / f"{step}.json", {"step": step, "state": marker, "seconds": 2.0})
    remedy = {"time": "2026-11-29T02:05:27", "step": "training.micro", "symptom": "out_of_memory", "evidence": "killed",
              "remedy": "half the micro-batch"}  # fmt: skip
    durable.write_note(notes / "remedies.json", {"remedies": [remedy]})
    folder = workspace / "checkpoints" / "default"
    finish(make_training(folder / "micro"))
    make_training(folder / "tiny_model")
    return folder
