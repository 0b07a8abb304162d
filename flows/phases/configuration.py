"""Phase 3: a short measurement on this machine, and from it and the budget every model's resolved YAML."""

from __future__ import annotations

import psutil

from flows import planner
from flows.ledger import Outcome, Step
from flows.phases.dataset import FETCH
from flows.phases.environment import rough_parameters
from flows.run import Run
from flows.worker import WorkerDied, WorkerTimedOut
from nanogpt import durable
from nanogpt.config import Config, save_config
from nanogpt.faults import OUT_OF_MEMORY, classify

MEASURE_SECONDS = 5.0  # per model; a step of the largest rung may take longer
MEASURE_PATIENCE = 300.0
BYTES_PER_BPE_TOKEN = 2.4  # of a vocabulary of 1,024 on tiny Shakespeare (measured 2.42)


def configuration(run: Run) -> None:
    if FETCH.name not in run.finished_steps:  # begun beside phase 2; if it failed there, here is another try
        run.do(FETCH)
    run.do(MEASURE)
    ladder = run.do(PLAN)["ladder"]
    run.milestone(
        "configuration", f"plan: {', then '.join(rung['name'] for rung in ladder)}",
        "\n".join(f"{rung['name']}: {rung['max_iters']:,} steps, about {rung['seconds']:.0f} s" for rung in ladder),
        [run.paths.state / "plan.json", *(run.paths.configs / f"{rung['name']}.yaml" for rung in ladder)],
    )  # fmt: skip


def measure_speed(run: Run) -> Outcome:
    """Seconds per real step of each model that might be trained, in the faster precision."""
    budget, fetched = run.config.budget, run.facts("dataset.fetch")
    models, unmeasured, in_bfloat16 = {}, {}, False
    corpus = _corpus(run, planner.tokenizer_for(run.options.rungs[0], fetched["bytes"], fetched["alphabet_size"]))
    step_tokens = {rung.name: planner.tokens_per_step(rung) for rung in run.options.rungs}
    for rung in run.options.rungs:
        rung = _with_vocabulary(run, rung, fetched)
        if in_bfloat16:  # faster for a smaller model already, and larger products gain more: float32 is not timed
            rung = rung.with_changes({"device.mixed_precision": True})
        measured = [planner.speed_of(name, facts) for name, facts in models.items()]
        if models and (reason := planner.hopeless(rough_parameters(rung), measured, step_tokens, budget, corpus)):
            unmeasured[rung.name] = reason
            continue
        try:
            models[rung.name] = speed = _measured(run, rung)
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if not models:
                raise
            unmeasured[rung.name] = f"cannot be trained here: {error}"
            continue
        in_bfloat16 = speed["mixed_precision"]
        threads = "1 thread" if speed["threads"] == 1 else f"{speed['threads']} threads"
        run.tell(f"{rung.name}: {speed['parameters'] / 1e6:.1f} M parameters, "
                 f"{speed['tokens_per_second']:,.0f} tokens/s in {speed['precision']}, {threads}")  # fmt: skip
    return Outcome(facts={"models": models, "unmeasured": unmeasured})


def _measured(run: Run, rung: Config) -> dict:
    """The speed of `rung`, its micro-batch halved until it fits into memory; the effective batch stays."""
    device = run.facts("implementation.checks")["device"]
    while True:
        training = rung.training
        try:
            speed = run.worker.call("nanogpt.training.profiler:choose_precision_and_threads", config=rung.model_dump(),
                                    device=device, seconds=min(MEASURE_SECONDS, run.config.budget / 60),
                                    timeout=MEASURE_PATIENCE)  # fmt: skip
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if training.batch_size == 1 or not _is_out_of_memory(error):
                raise
            smaller = training.batch_size // 2 if training.batch_size % 2 == 0 else 1
            sequences = training.batch_size * training.gradient_accumulation
            rung = rung.with_changes({"training.batch_size": smaller,
                                      "training.gradient_accumulation": sequences // smaller})  # fmt: skip
            run.tell(f"{rung.name}: out of memory; now in micro-batches of {smaller}, not {training.batch_size}",
                     "warning")  # fmt: skip
            continue
        peak = _peak(run, device, speed["precision"])
        return {**speed, "batch_size": training.batch_size, "gradient_accumulation": training.gradient_accumulation,
                "micro_batch": training.batch_size,
                "share_of_peak": speed["flops_per_second"] / peak if peak else None}  # fmt: skip


def _is_out_of_memory(error: Exception) -> bool:
    """Told by the allocator, or by the death of the process that asked for too much."""
    died = isinstance(error, WorkerDied) and not isinstance(error, WorkerTimedOut)
    return died or classify(error) == OUT_OF_MEMORY


def make_plan(run: Run) -> Outcome:
    fetched, measured = run.facts("dataset.fetch"), run.facts("configuration.measure")
    tokenizer = planner.tokenizer_for(run.options.rungs[0], fetched["bytes"], fetched["alphabet_size"])
    device = run.facts("implementation.checks")["device"]
    rungs = [
        rung.with_changes({"data.tokenizer": tokenizer, "device.type": device})
        for rung in run.options.rungs
    ]  # fmt: skip
    plan = planner.make_plan(
        rungs, {name: planner.speed_of(name, facts) for name, facts in measured["models"].items()},
        measured["unmeasured"], run.config.budget, _corpus(run, tokenizer), _memory_of(run, device),
        run.options.fixed, run.options.pinned,
    )  # fmt: skip
    files = []
    for rung in plan.ladder:
        files.append(run.paths.configs / f"{rung.config.name}.yaml")
        save_config(rung.config, files[-1])
        run.tell(f"{rung.config.name}: {rung.config.training.max_iters:,} steps, {rung.tokens:,} tokens, "
                 f"about {rung.seconds:.0f} s ({rung.why})")  # fmt: skip
    for row in plan.left_out:
        run.tell(f"{row['name']} is left out: {row['reason']}")
    plan_file = run.paths.state / "plan.json"
    durable.write_json(plan_file, plan.facts())
    return Outcome([*files, plan_file], plan.facts())


def _peak(run: Run, device: str, precision: str) -> float | None:
    """FLOP/s of plain matrix products, measured in phase 1; None for a device that phase 2 fell back to."""
    proved = run.facts("environment.device")
    return proved[f"{precision}_flops"] if proved["device"] == device else None


def _memory_of(run: Run, device: str) -> int:
    proved = run.facts("environment.device")
    return proved["memory_bytes"] if proved["device"] == device else psutil.virtual_memory().total


def _corpus(run: Run, tokenizer: str) -> planner.Corpus:
    fetched, data = run.facts("dataset.fetch"), run.config.data
    return planner.Corpus(fetched["bytes"], fetched["characters"], fetched["alphabet_size"], data.val_fraction,
                          data.test_fraction, bytes_per_token(tokenizer, fetched))  # fmt: skip


def bytes_per_token(tokenizer: str, fetched: dict) -> float:
    return fetched["bytes"] / fetched["characters"] if tokenizer == "char" else BYTES_PER_BPE_TOKEN


def _with_vocabulary(run: Run, rung, fetched: dict):
    """The rung with the vocabulary that its tokenizer will have, near enough for a measurement."""
    kind = planner.tokenizer_for(rung, fetched["bytes"], fetched["alphabet_size"])
    sizes = {"char": fetched["alphabet_size"] + 1, "bpe": run.config.data.bpe_vocab_size, "gpt2": 50257}
    return rung.with_changes({"model.vocab_size": sizes[kind]})


def _measure_settings(run: Run) -> dict:
    """Shapes and batch decide the speed; learning rates and schedules do not."""
    return {
        "budget": run.config.budget,
        "device": run.config.device.model_dump(),
        "models": {
            rung.name: {"model": rung.model.model_dump(), "batch_size": rung.training.batch_size,
                        "gradient_accumulation": rung.training.gradient_accumulation,
                        "optimizer": rung.training.optimizer, "tokenizer": rung.data.tokenizer}
            for rung in run.options.rungs
        },
    }  # fmt: skip


def _plan_settings(run: Run) -> dict:
    return {
        "budget": run.config.budget, "data": run.config.data.model_dump(), "device": run.config.device.model_dump(),
        "models": {rung.name: rung.model_dump(include={"model", "training"}) for rung in run.options.rungs},
        "pinned": sorted(run.options.pinned),
    }  # fmt: skip


MEASURE = Step(
    "configuration.measure", "Measure the speed of each model", measure_speed, _measure_settings,
    needs=("implementation.checks", "dataset.fetch"), code=("flows.phases.configuration",), costly=True,
)  # fmt: skip
PLAN = Step(
    "configuration.plan", "Plan the ladder and write its YAML", make_plan, _plan_settings,
    needs=("configuration.measure", "dataset.fetch", "implementation.checks"),
    code=("flows.planner", "flows.phases.configuration"), costly=True,
)  # fmt: skip
STEPS = [MEASURE, PLAN]
