"""How soon a run trains, and what a start with nothing to do takes: python -m bench.start [--mirror DIR] [--write]

A run of ten minutes is started from nothing, with its pages, and stopped at its first training step; a small one is
finished and started again. Imports are those of `python -X importtime`, by the package that they belong to. `--write`
puts a section for this kind of machine into docs/whole_run.md; those of other kinds stay.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.faults.series.overhead import Interval, covered, steps_in
from bench.faults.stage.process import free_port
from bench.this_machine import kind, this_machine, write_section
from bench.whole_run import DOCUMENT, HEAD
from flows.context.paths import CHECKOUT

STARTS = 3  # of a run with nothing to do
MEASUREMENT = "configuration.measure"
SMALL = """\
model: {preset: modern, n_layer: 2, n_head: 2, n_embd: 32, block_size: 32}
training: {batch_size: 8, max_iters: 300, warmup_iters: 10, eval_interval: 100, learning_rate: 0.01}
data: {tokenizer: char}
device: {type: cpu, mixed_precision: false, threads: 1}
"""
PROGRAMS = {  # what a person waits for -> what it imports
    "the command": "flows.full_run",
    "`--help` and what else needs no package": "flows.cli.answers",
    "the worker and the trainer": "nanogpt.training.child",
    "Prefect's pages, on a thread": "flows.display.prefect_pages",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", help="folder or URL with copies of the downloads")
    parser.add_argument("--write", action="store_true", help="write docs/whole_run.md")
    given = parser.parse_args()
    mirror = ["--set", f"data.mirror={given.mirror}"] if given.mirror else ["--data", "embedded"]
    text = document(*first_step(mirror), again(), {name: imports(module) for name, module in PROGRAMS.items()})
    print(text)
    if given.write:
        write_section(DOCUMENT, HEAD, f"The start: {kind()}", text)
    return 0


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for a run, whose server is ended with it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        finally:
            home = Path(folder) / "state/.prefect"
            subprocess.run([sys.executable, "-m", "flows.prefect_server", "stop", home], cwd=CHECKOUT, check=False)


def command(folder: Path, budget: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--budget", budget, "--workspace", str(folder),
            "--set", "milestones=false", "--set", "tests=false", "--set", f"port={free_port()}", *more]  # fmt: skip


def first_step(text: list[str]) -> tuple[float, dict[str, Interval]]:
    """Seconds from the command to the first training step, and when each step was at work, in such seconds."""
    with workspace() as folder:
        began = time.time()
        run = subprocess.Popen(command(folder, "10m", *text), cwd=CHECKOUT, stdout=subprocess.DEVNULL)
        while not any(file.stat().st_size for file in folder.glob("checkpoints/default/*/metrics.jsonl")):
            if run.poll() is not None:
                raise RuntimeError(f"the run ended with {run.returncode} before it trained")
            time.sleep(0.02)
        seconds = time.time() - began
        run.send_signal(signal.SIGINT)
        run.wait()
        steps = steps_in((folder / "logs/default/automation_log.txt").read_text(encoding="utf-8"))
    return seconds, {name: (start - began, end - began) for name, (start, end) in steps.items()}


def again() -> list[float]:
    """Seconds of starts with nothing to do, of a small run whose pages are still served."""
    with workspace() as folder:
        (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
        words = command(folder, "170s", "--config", str(folder / "small.yaml"), "--data", "embedded")
        seconds = []
        for _ in range(1 + STARTS):
            began = time.monotonic()
            subprocess.run(words, cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.monotonic() - began)
    return seconds[1:]


def imports(module: str) -> tuple[float, int, Counter[str]]:
    """Seconds to import a module in a fresh Python, how many modules come with it, and the milliseconds of each of
    their packages."""
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=CHECKOUT, env=environment, check=True)
    seconds = time.monotonic() - began
    timed = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    said = subprocess.run(timed, cwd=CHECKOUT, env=environment, check=True, capture_output=True, text=True).stderr
    packages: Counter[str] = Counter()
    rows = re.findall(r"^import time: +(\d+) \| +\d+ \| +([\w.]+)$", said, re.MULTILINE)
    for microseconds, name in rows:
        packages[name.partition(".")[0]] += int(microseconds)
    return seconds, len(rows), packages


def document(
    seconds: float,
    steps: dict[str, Interval],
    again: list[float],
    imported: dict[str, tuple[float, int, Counter[str]]],
) -> str:
    measuring = covered([steps.pop(MEASUREMENT)])
    before = min(began for began, _ in steps.values())
    working = covered(steps.values())
    rest = seconds - measuring - before - working
    lines = [
        f"{this_machine()}.",
        "",
        "| | seconds |",
        "|---|---|",
        f"| **from the command to the first training step** | **{seconds:.1f}** |",
        f"| phase 3 measures real steps of the models that it plans with | {measuring:.1f} |",
        f"| **the same without that measurement** | **{seconds - measuring:.1f}** |",
        f"| the command itself, before its first step | {before:.1f} |",
        f"| steps of phases 1 to 4 | {working:.1f} |",
        f"| the trainer's own start, and between steps | {rest:.1f} |",
        f"| **a start with nothing to do** (median of {len(again)}) | **{statistics.median(again):.2f}** |",
        "",
        "What is imported, in a fresh Python, and where the milliseconds go (`python -X importtime`):",
        "",
        "| by | seconds | modules | most of it |",
        "|---|---|---|---|",
    ]
    for name, (taken, modules, packages) in imported.items():
        most = ", ".join(f"{package} {spent / 1000:.0f} ms" for package, spent in packages.most_common(5))
        lines.append(f"| {name} | {taken:.2f} | {modules:,} | {most} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
