"""Phase 7: the best model leaves the workspace: in every form that other programs open, made smaller, served, tried."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flows.context.paths import CHECKOUT, from_checkout
from flows.ledger.facts import (
    BASELINES,
    CHECKS,
    COMPRESSED,
    EVALUATED,
    EXAMPLES,
    EXPORTED,
    FORMATS,
    SAMPLES,
    SERVED,
    Compressed,
    Example,
    Examples,
    Exported,
    ExportedFile,
    ExportedFormat,
    Formats,
    Key,
    Served,
)
from flows.ledger.steps import Json, StepResult
from flows.machine.disk import Unwritable
from flows.planning import budget_shares
from flows.planning.candidates import next_smaller
from flows.report import cards
from flows.report.facts import collect, facts_of
from flows.runner.run import AnyStep, Phase, Run, Step
from nanogpt import durable
from nanogpt.config import load_config, token_folder
from nanogpt.export.card import text
from nanogpt.export.front_matter import CARD
from nanogpt.export.titles import OPENED_BY
from nanogpt.faults import UserError
from nanogpt.records import to_json
from nanogpt.results.compression import CompressionTable
from nanogpt.units import MIB, chosen_duration

EXAMPLE_SECONDS = 90
EXPORT_SECONDS = 600.0
AS_BEFORE = ("--seed", "1")  # so that the same model gives the same examples
BEST = "best"  # the export's folder, whichever model it is: what people type stays the same
MORE_FORMATS = ("gguf", "onnx", "mlx")  # besides the Hugging Face folder
COMPRESSION_PATIENCE = 4.0  # times the seconds that it should take, and EXPORT_SECONDS
LEARNING, JUDGING = 0.5, 0.25  # shares of the compression's seconds; measuring and writing take the rest
PROMPT = "\n"  # for the server, where there are no samples whose prompt could be taken
FIRST_EXAMPLE = "complete.py"
BYTES_OF_A_PROCESS = 512 * MIB  # Python with torch: 330 MiB here
CONVERSATION = "Who are you?\nWhat do you think of the king?\n"  # what a person would type to the chat


def deployment(run: Run) -> None:
    """What is made of the export does not depend on one another: where one fails the rest is done, and then the phase
    has failed.

    Examples are programs of their own and run next to what is written; what is measured has the machine for itself.
    """
    export(run)
    examples = run.start_in_background(EXAMPLES)
    works = [lambda: run.do(FORMATS), examples, lambda: run.do(SERVED), lambda: run.do(COMPRESSED)]
    troubles = [trouble for trouble in map(_trouble_of, works) if trouble]
    if troubles:
        raise troubles[0]


def _trouble_of(work: Callable[[], object]) -> Exception | None:
    """Do it; what went wrong. Raises Unwritable: nothing else could be written either."""
    try:
        work()
    except Unwritable:
        raise
    except Exception as error:
        return error
    return None


def export(run: Run) -> None:
    run.do(EXPORTED)
    for card in cards.copy_to_models(run.models(), run.paths):
        run.journal.log(f"{run.paths.relative(card)} was not the model's whole card: written again")


def export_best(run: Run) -> StepResult[Exported]:
    best = run.facts(EVALUATED).best
    folder, facts = run.paths.exports / BEST, collect(run)
    card = cards.of_run(facts, best)
    written = [*cards.write_all(facts, run.paths), *cards.write(card, run.paths.state / "model_card.md")]
    with _set_aside(run, folder):
        files: list[Path] = run.worker.call(
            "nanogpt.export.huggingface:export_trained",
            model_folder=run.paths.model(best),
            folder=folder,
            card=text(card) if card else None,
            own=True,
            timeout=EXPORT_SECONDS,
        )
    rows = _rows(run, files)
    facts_of_export = Exported(best, run.paths.relative(folder), rows, _bytes(rows))
    return StepResult(facts_of_export, [*files, *written])


@contextmanager
def _set_aside(run: Run, folder: Path) -> Iterator[None]:
    """Say what an export into `folder` found in its place and moved away."""
    before = set(folder.parent.glob(f"{folder.name}.*"))
    yield
    for aside in set(folder.parent.glob(f"{folder.name}.*")) - before:
        run.journal.message(
            f"{run.paths.relative(folder)} was no export, or half of one: it is now {aside.name}", "warning"
        )


def _rows(run: Run, files: list[Path]) -> list[ExportedFile]:
    return [ExportedFile(run.paths.relative(path), path.stat().st_size, durable.sha256_file(path)) for path in files]


def _bytes(rows: list[ExportedFile]) -> int:
    return sum(row.bytes for row in rows)


def _what_the_card_says(run: Run) -> Json:
    """By digest, what was found out about the models besides their figures; where it is missing, the export is made
    all the same."""
    shown: tuple[Key[Any], ...] = (SAMPLES, BASELINES)
    known = [key.step for key in shown if facts_of(run, key) is not None]
    return {"card": {step: run.ledger.output_digest(step) for step in known}}


def export_formats(run: Run) -> StepResult[Formats]:
    """One folder a form next to the export. A form that cannot hold such a model is named with the reason."""
    exported = run.facts(EXPORTED)
    source = run.paths.workspace / exported.folder
    card = source / CARD
    formats, refused, files = [], {}, []
    for name in MORE_FORMATS:
        folder = source.with_name(f"{BEST}-{name}")
        try:
            with _set_aside(run, folder):
                found: list[Path] = run.worker.call(
                    "nanogpt.export.formats:write",
                    source=source,
                    fmt=name,
                    folder=folder,
                    card=card.read_text(encoding="utf-8") if card.is_file() else None,
                    own=True,
                    timeout=EXPORT_SECONDS,
                )
        except UserError as error:
            refused[name] = str(error)
            run.journal.message(f"{name}: {error}", "warning")
            continue
        rows = _rows(run, found)
        formats.append(ExportedFormat(name, OPENED_BY[name], run.paths.relative(folder), rows, _bytes(rows)))
        files += found
    return StepResult(Formats(exported.model, formats, refused), files)


def serve(run: Run) -> StepResult[Served]:
    """`nanogpt serve` on the export, a completion and a chat answer by HTTP, and its end by SIGTERM."""
    exported, samples = run.facts(EXPORTED), facts_of(run, SAMPLES)
    prompt = samples.prompts[0] if samples and samples.prompts else PROMPT
    folder = run.paths.workspace / exported.folder
    from flows.supervision.server_trial import serve_and_talk  # requests: 80 ms of a start

    talk = serve_and_talk(folder, prompt, run.paths.logs / "server.log")
    run.journal.message(
        f"served: first token after {1000 * talk.seconds_to_first_token:.0f} ms, "
        f"{talk.tokens_per_second:,.0f} tokens a second"
    )
    command = shlex.join(["nanogpt", "serve", from_checkout(folder)])
    served = Served(model=exported.model, command=command, **vars(talk))
    return StepResult(served, identity={"prompt": talk.prompt})  # what it says and how fast is this machine's


def compress(run: Run) -> StepResult[Compressed]:
    """The table of smaller models, within the plan's seconds; a short or a late run leaves it out and says so."""
    exported, seconds = run.facts(EXPORTED), _compression_seconds(run)
    folder = run.paths.exports / f"{BEST}-smaller"
    config = load_config(run.paths.config(exported.model))
    data = run.paths.data / token_folder(config.data.tokenizer)
    if not seconds or run.is_late:
        reason = "the run is late" if seconds else _too_short(run)
        places = [from_checkout(place) for place in (run.paths.workspace / exported.folder, data, folder)]
        by_hand = shlex.join(["nanogpt", "compress", places[0], "--data", places[1], "--out", places[2]])
        return StepResult(Compressed(exported.model, "", None, reason, by_hand), left_out=reason)

    def work(device: str) -> CompressionTable:
        table: CompressionTable = run.worker.call(
            "nanogpt.compression.table:compress",
            folder=run.paths.workspace / exported.folder,
            data_folder=data,
            out=folder,
            seconds=LEARNING * seconds,
            seconds_to_judge=JUDGING * seconds,
            student=next_smaller(run.options, config),
            device=device,
            timeout=EXPORT_SECONDS + COMPRESSION_PATIENCE * seconds,
        )
        return table

    device = run.accelerator.current(run.facts(CHECKS).device)
    table = run.accelerator.run_on(device, "deployment", work)
    for line in table.recommendation:
        run.journal.message(line)
    facts = Compressed(exported.model, run.paths.relative(folder), table)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return StepResult(facts, files, identity={"made": [row.name for row in table.models]})


def _compression_seconds(run: Run) -> float:
    return budget_shares.compression_seconds(run.config.budget)


def _too_short(run: Run) -> str:
    least = chosen_duration(budget_shares.BUDGET_FOR_COMPRESSION)
    return f"a budget of {chosen_duration(run.config.budget)} leaves no time for it; it takes {least} or more"


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
    left_out = [script.stem for script in scripts if script not in chosen]
    return StepResult(Examples(rows, left_out), [file], identity={row.name: row.output for row in rows})


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
        encoding="utf-8",  # whatever the terminal's is: a model may write any character
        timeout=EXAMPLE_SECONDS,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"},
    )
    return Example(
        name=script.stem,
        command=shlex.join(["python3", arguments[0], from_checkout(model), *AS_BEFORE]),
        exit_code=done.returncode,
        seconds=round(time.monotonic() - began, 1),
        output=(done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip(),
    )


MODEL = (
    "flows/phases/deployment.py",
    "nanogpt/model/**",
    "nanogpt/kernels/**",
    "nanogpt/weights/**",
    "nanogpt/tokenizers/**",
    "nanogpt/sources/cleaning.py",
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
        key=FORMATS,
        title="Export it for other programs",
        work=export_formats,
        needs=("deployment.export",),
        code=(*MODEL, "nanogpt/export/**", "nanogpt/decoders/**", "nanogpt/markdown.py"),
    ),
    Step(
        key=SERVED,
        title="Serve it and talk to it",
        work=serve,
        needs=("deployment.export",),
        code=(
            *MODEL,
            "flows/supervision/server_trial.py",
            "flows/report/facts.py",
            "nanogpt/commands/serve.py",
            "nanogpt/serving/**",
            "nanogpt/inference/**",
            "nanogpt/decoders/**",
        ),
    ),
    Step(
        key=COMPRESSED,
        title="Make it smaller, and compare",
        work=compress,
        settings=lambda run: {"seconds": _compression_seconds(run)},
        needs=("deployment.export",),
        code=(
            *MODEL,
            "nanogpt/compression/**",
            "nanogpt/training/*.py",
            "nanogpt/training/update/**",
            "nanogpt/evaluation/block_bootstrap.py",
            "nanogpt/evaluation/speed.py",
            "nanogpt/evaluation/students_t.py",
            "nanogpt/evaluation/window_losses.py",
            "nanogpt/inference/**",
            "nanogpt/decoders/**",
            "nanogpt/data/augmentation.py",
            "nanogpt/data/chapters.py",
            "nanogpt/data/data_loader.py",
            "nanogpt/data/mixture.py",
            "nanogpt/data/order.py",
            "nanogpt/data/shard_file.py",
            "nanogpt/data/shards.py",
            "nanogpt/sources/**",
            "nanogpt/device.py",
            "nanogpt/export/huggingface.py",
            "nanogpt/export/target.py",
            "nanogpt/export/front_matter.py",
            "nanogpt/markdown.py",
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
