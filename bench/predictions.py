"""Predicted against taken: python -m bench.predictions --data FILE [--write]

Each training has a fixed number of steps. Its seconds are predicted as phase 3 does, from a measurement of a few
seconds before it, and then it is trained by the trainer itself. `--write` puts the table into docs/plan.md.
It needs a quiet machine: with other work on it the figures say little.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from bench.this_machine import this_machine
from flows.context.paths import CHECKOUT
from flows.ledger.facts import MeasuredModel
from flows.planning import forecast, planner
from flows.planning.budget_shares import MEASURE_SECONDS, by_experience
from flows.planning.measure import CHOOSING_SHARE
from nanogpt import durable
from nanogpt.config import Config, DataConfig, load_config, save_config
from nanogpt.corpus import preparation, tokenising
from nanogpt.process.worker import Worker
from nanogpt.records import from_json
from nanogpt.results.speed import Rehearsal, StepSpeed
from nanogpt.results.training import TrainingOutcome

TRAININGS = [("micro", 300), ("micro", 1000), ("tiny_model", 200), ("tiny_model", 500), ("small_model", 12)]
PLENTY = 86400.0  # seconds: nothing is cut short
BEGIN, END = "<!-- predictions: python -m bench.predictions --write -->\n", "<!-- end of predictions -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="tinyshakespeare.txt")
    parser.add_argument("--models", nargs="+", help="only these")
    parser.add_argument("--write", action="store_true", help="write the table into docs/plan.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given.data.resolve(), Path(folder), given.models)
    text = table(rows)
    print(text)
    if given.write:
        write(text)
    return 0


def measure(text: Path, folder: Path, models: list[str] | None) -> list[dict]:
    """One row a training: predicted and taken."""
    statistics = preparation.prepare([text], folder / "text", DataConfig())
    tokenising.tokenise(folder / "text", "char", folder / "char", DataConfig())
    alphabet = len(statistics.alphabet)
    corpus = forecast.Corpus(statistics.bytes, statistics.characters, alphabet, DataConfig().val_fraction,
                             DataConfig().test_fraction, 1.0)  # fmt: skip
    rows = []
    for name, steps in TRAININGS:
        if models and name not in models:
            continue
        config = fixed(name, steps)
        speed = forecast.Speed.of(name, rehearse(config.with_changes({"model.vocab_size": alphabet + 1}), folder))
        plan = planner.make_plan([config], {name: speed}, {}, PLENTY, by_experience(PLENTY, corpus.bytes), corpus,
                                 2**60, True, frozenset())  # fmt: skip
        [model] = plan.ladder
        between = forecast.seconds_between_steps(model.config, speed, corpus)
        began = time.monotonic()
        taken = train(model.config, folder / "char", folder / f"{name}-{steps}").seconds
        rows.append({"name": name, "steps": steps, "predicted": model.seconds, "between": between, "taken": taken,
                     "process": time.monotonic() - began})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def fixed(name: str, steps: int) -> Config:
    changes = [f"training.max_iters={steps}", f"training.warmup_iters={min(20, steps // 2)}", "data.tokenizer=char",
               "device.type=cpu"]  # fmt: skip
    return load_config(CHECKOUT / f"configs/{name}.yaml", changes)


def rehearse(config: Config, folder: Path) -> MeasuredModel:
    """As phase 3 measures, in a process of its own."""
    worker = Worker(folder / "worker.log")
    try:
        chosen: StepSpeed = worker.call(
            "nanogpt.measure.profiler:choose_precision_and_threads",
            config=config.model_dump(),
            device="cpu",
            seconds=CHOOSING_SHARE * MEASURE_SECONDS,
        )
        settled = config.with_changes(
            {"device.mixed_precision": chosen.mixed_precision, "device.threads": chosen.threads}
        )
        speed: Rehearsal = worker.call("nanogpt.measure.rehearsal:rehearse", config=settled.model_dump(), device="cpu",
                                       folder=str(folder), seconds=(1 - CHOOSING_SHARE) * MEASURE_SECONDS)  # fmt: skip
    finally:
        worker.close()
    training = settled.training
    return MeasuredModel(**asdict(speed), batch_size=training.batch_size,
                         gradient_accumulation=training.gradient_accumulation, gradient_checkpointing=False,
                         longest_window=None, micro_batch=training.batch_size)  # fmt: skip


def train(config: Config, data: Path, folder: Path) -> TrainingOutcome:
    """By the command itself, in a process of its own."""
    save_config(config, folder / "config.yaml")
    command = [sys.executable, "-m", "nanogpt.cli", "train", str(folder / "config.yaml"), "--data", str(data),
               "--folder", str(folder / "model")]  # fmt: skip
    subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.DEVNULL)
    return from_json(TrainingOutcome, durable.read_json(folder / "model/outcome.json"))


def table(rows: list[dict]) -> str:
    lines = [
        f"{this_machine()}; each training predicted from a measurement of {MEASURE_SECONDS:.0f} s before it.", "",
        "| model | steps | predicted | of it between the steps | taken | taken / predicted | its process |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        lines.append(
            f"| {row['name']} | {row['steps']:,} | {row['predicted']:.1f} s | {row['between']:.1f} s "
            f"| {row['taken']:.1f} s | {row['taken'] / row['predicted']:.2f} | {row['process']:.1f} s |"
        )
    return "\n".join(lines) + "\n"


def write(text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between these marks of docs/plan.md."""
    file = CHECKOUT / "docs/plan.md"
    before, rest = file.read_text(encoding="utf-8").split(begin)
    durable.write_text(file, before + begin + text + end + rest.split(end)[1])


if __name__ == "__main__":
    sys.exit(main())
