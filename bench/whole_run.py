"""The whole command against the clock: python -m bench.whole_run [--budgets 2m 10m] [--mirror DIR] [--write]

Each budget is run from nothing in a workspace of its own, then once more when all is done; every figure is read from
the facts that the run left. `--write` puts a section for this kind of machine into docs/whole_run.md; those of other
kinds stay.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.this_machine import kind, this_machine, write_section
from flows.context.command_words import seconds_of
from flows.context.paths import CHECKOUT
from flows.ledger.facts import BASELINES, EVALUATED, PLANNED
from flows.report.facts import RunFacts
from nanogpt import durable
from nanogpt.evaluation.known_results import NANOGPT_CPU_RECIPE, NANOGPT_GPU_RECIPE
from nanogpt.evaluation.perplexity import mean_loss
from nanogpt.records import from_json

DOCUMENT = CHECKOUT / "docs/whole_run.md"
HEAD = f"""# The whole run against the clock

This page has one section for each kind of machine. `python -m bench.whole_run --write` measures runs from nothing to
the report, without the set-up of packages. `python -m bench.start --write` stops a run of ten minutes at its first
training step.

Losses are nanoGPT's measure: characters, in windows over the last tenth of the text. A model knows more of what came
before in longer windows, so most tables have a column for windows of 64 and one for the model's own length.
{NANOGPT_CPU_RECIPE.title} ends at {NANOGPT_CPU_RECIPE.loss} in windows of 64 ([its time](training.md));
{NANOGPT_GPU_RECIPE.title} reaches {NANOGPT_GPU_RECIPE.loss} in windows of {NANOGPT_GPU_RECIPE.window}, after
{NANOGPT_GPU_RECIPE.steps:,} steps on {NANOGPT_GPU_RECIPE.machine}.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budgets", nargs="+", default=["2m", "10m"])
    parser.add_argument("--mirror", help="folder or URL with copies of the downloads")
    parser.add_argument("--write", action="store_true", help="write docs/whole_run.md")
    given = parser.parse_args()
    rows = [measure(budget, given.mirror) for budget in given.budgets]
    text = table(rows)
    print(text)
    if given.write:
        write_section(DOCUMENT, HEAD, kind(), text)
    return 0


def measure(budget: str, mirror: str | None) -> dict:
    """One run from nothing and one more of the same command; seconds of both, and the first one's facts."""
    with tempfile.TemporaryDirectory() as workspace:
        command = [sys.executable, "-m", "flows.full_run", "--no-bootstrap", "--budget", budget,
                   "--workspace", workspace, "--set", "milestones=false"]  # fmt: skip
        if mirror:
            command += ["--set", f"data.mirror={mirror}"]
        first, again = timed(command), timed(command)
        facts = from_json(RunFacts, durable.read_json(Path(workspace) / "reports/default/facts.json"))
        stop = [sys.executable, "-m", "flows.prefect_server", "stop", f"{workspace}/state/.prefect"]
        subprocess.run(stop, cwd=CHECKOUT, check=False)
    return {"budget": budget, "seconds": first, "again": again, "facts": facts}


def timed(command: list[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=CHECKOUT, check=True)
    return time.monotonic() - began


def table(rows: list[dict]) -> str:
    lines = [
        f"{this_machine()}.",
        "",
        "| budget | took | again, all cached | models | best | loss in windows of 64 | in its own "
        "| test bits per byte | 5-gram |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        evaluated, baselines = row["facts"].of(EVALUATED), row["facts"].of(BASELINES)
        best = evaluated.models[evaluated.best]
        lines.append(
            f"| {row['budget']} ({seconds_of(row['budget']):.0f} s) | {row['seconds']:.1f} s | {row['again']:.1f} s "
            f"| {', '.join(evaluated.models)} | {evaluated.best} ({best.parameters / 1e6:.2f} M) "
            f"| {best.nanogpt_loss:.4f} | {mean_loss([best.val, best.test]):.4f} ({best.val.window}) "
            f"| {best.test.bits_per_byte:.3f} "
            f"| {baselines.bits_per_byte['5-gram']:.3f} |"
        )
    lines += [
        "",
        "Seconds of each phase, planned and taken:",
        "",
        "| phase | " + " | ".join(f"{row['budget']} planned | {row['budget']} taken" for row in rows) + " |",
        "|---" * (1 + 2 * len(rows)) + "|",
    ]
    for phases in zip(*(row["facts"].phases for row in rows), strict=True):
        seconds = [each for phase in phases for each in (phase.planned_seconds, phase.seconds)]
        cells = ["-" if each is None else f"{each:.1f}" for each in seconds]
        lines.append(f"| {phases[0].number} {phases[0].name} | " + " | ".join(cells) + " |")
    lines += ["", "Steps of each training, expected by the plan and made:", ""]
    lines += ["| run, model | expected | made | |", "|---|---|---|---|"]
    for row in rows:
        plan = {model.name: model for model in row["facts"].of(PLANNED).ladder}
        for model in row["facts"].models:
            if model.trained and model.name in plan:
                expected, made = plan[model.name].steps, model.trained.step
                off = f"{100 * (made / expected - 1):+.0f} %"
                lines.append(f"| {row['budget']}, {model.name} | {expected:,} | {made:,} | {off} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
