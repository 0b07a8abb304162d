"""Phase 3: a short measurement on this machine, and from it and the budget every model's resolved YAML."""

from __future__ import annotations

import shutil

import psutil

from flows import demands, forecast, pace, planner
from flows.ledger import Outcome, Step
from flows.phases.dataset import FETCH
from flows.run import Run
from flows.worker import WorkerDied, WorkerTimedOut
from nanogpt import durable
from nanogpt.config import Config, save_config
from nanogpt.faults import OUT_OF_MEMORY, UserError, classify
from nanogpt.training.sizes import parameters, tokens_per_step

CHOOSING_SHARE = 0.6  # of the time of a measurement for precision and threads; the rest is for the speed itself
MEASURE_PATIENCE = 300.0  # a step of the largest rung may take long
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
    """Seconds per real step, and of what is done beside, of each model that might be trained, in what is fastest."""
    models, unmeasured, in_bfloat16 = {}, {}, False
    for rung in run.options.rungs:
        rung = _resolved(run, rung)
        if in_bfloat16:  # faster for a smaller model already, and larger products gain more: float32 is not timed
            rung = rung.with_changes({"device.mixed_precision": True})
        if models and (reason := _why_not_measured(run, rung, models)):
            unmeasured[rung.name] = reason
            continue
        try:
            models[rung.name] = speed = _measured(run, rung)
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if not models:
                raise
            unmeasured[rung.name] = f"cannot be trained here: {error}"
            continue
        in_bfloat16 = speed["mixed_precision"] is True
        threads = "1 thread" if speed["threads"] == 1 else f"{speed['threads']} threads"
        run.tell(f"{rung.name}: {speed['parameters'] / 1e6:.1f} M parameters, "
                 f"{speed['tokens_per_second']:,.0f} tokens/s in {speed['precision']}, {threads}")  # fmt: skip
    is_decided = run.options.fixed or run.options.pinned & planner.STEP_SPLIT
    if run.config.budget >= pace.BUDGET_FOR_MICRO_BATCHES and not is_decided:
        _find_micro_batch(run, models)
    return Outcome(facts={"models": models, "unmeasured": unmeasured})


def _find_micro_batch(run: Run, models: dict) -> None:
    """The fastest micro-batch for the model that will get most of the time; kept in state/ for later runs."""
    chosen = _planned(run, models, {}).ladder[-1].config
    rung = demands.with_vocabulary(chosen, run.facts("dataset.fetch")["alphabet_size"])
    sequences = rung.training.batch_size * rung.training.gradient_accumulation
    try:
        found = run.worker.call(
            "nanogpt.training.batch_finder:find_for", config=rung.model_dump(), folder=str(run.paths.state.parent),
            seconds=pace.micro_batch_seconds(run.config.budget), timeout=MEASURE_PATIENCE,
        )  # fmt: skip
        divisors = [row for row in found["tried"] if row["result"] == "fits" and sequences % row["micro_batch"] == 0]
        best = max(divisors, key=lambda row: row["tokens_per_second"])
        fastest = best["micro_batch"]
        was = models[rung.name]
        if fastest == was["batch_size"] or best["tokens_per_second"] <= was["tokens_per_second"]:
            return  # a search that had no time for more knows of nothing faster
        split = rung.with_changes({"training.batch_size": fastest,
                                   "training.gradient_accumulation": sequences // fastest})  # fmt: skip
        speed = _measured(run, split)
    except (WorkerDied, RuntimeError, MemoryError, UserError, ValueError) as error:
        run.tell(f"{rung.name}: the micro-batch stays {rung.training.batch_size}: {error}", "warning")
        return
    if speed["seconds_per_step"] < was["seconds_per_step"]:
        run.tell(f"{rung.name}: micro-batches of {speed['batch_size']} are faster: "
                 f"{speed['tokens_per_second']:,.0f} tokens/s")  # fmt: skip
        models[rung.name] = speed


def _why_not_measured(run: Run, rung: Config, models: dict) -> str | None:
    """What speaks against `rung` before a step of it is tried: memory, disk, too little text or too little time."""
    device = _device(run)
    room, free = _room(run, device), shutil.disk_usage(run.paths.workspace).free
    if demands.fitted(rung, device, room) is None:
        return (f"is predicted to need {_gib(demands.memory_needed(rung, device, micro_batch=1))} even with one "
                f"sequence at a time; {_gib(room)} are there for a training")  # fmt: skip
    if demands.disk_needed(rung) > free:
        return f"its checkpoints would need {_gib(demands.disk_needed(rung))}; {_gib(free)} of the disk are free"
    if reason := planner.starved(parameters(rung.model).total, _corpus(run)):
        return reason
    measured = [forecast.speed_of(name, facts) for name, facts in models.items()]
    step_tokens = {rung.name: tokens_per_step(rung) for rung in run.options.rungs}
    seconds = pace.training_seconds(run.config.budget, _phases(run))
    return planner.hopeless(parameters(rung.model).total, measured, step_tokens, seconds, _corpus(run))


def _measured(run: Run, rung: Config) -> dict:
    """The speed of `rung`, its micro-batch made smaller until it fits into memory; the effective batch stays."""
    device = _device(run)
    rung = demands.fitted(rung, device, _room(run, device)) or rung
    while True:
        training = rung.training
        try:
            speed = _measured_once(run, rung, device)
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if training.batch_size == 1 or not _is_out_of_memory(error):
                raise
            sequences = training.batch_size * training.gradient_accumulation
            smaller = demands.halved(training.batch_size, sequences)[1]
            rung = rung.with_changes({"training.batch_size": smaller,
                                      "training.gradient_accumulation": sequences // smaller})  # fmt: skip
            run.tell(f"{rung.name}: out of memory; now in micro-batches of {smaller}, not {training.batch_size}",
                     "warning")  # fmt: skip
            continue
        return {**speed, "batch_size": training.batch_size, "gradient_accumulation": training.gradient_accumulation,
                "micro_batch": training.batch_size, "share_of_peak": speed["share_of_matmul"]}  # fmt: skip


def _measured_once(run: Run, rung: Config, device: str) -> dict:
    seconds = pace.measure_seconds(run.config.budget)
    chosen = run.worker.call(
        "nanogpt.training.profiler:choose_precision_and_threads", config=rung.model_dump(), device=device,
        seconds=CHOOSING_SHARE * seconds, timeout=MEASURE_PATIENCE,
    )  # fmt: skip
    settled = rung.with_changes({"device.mixed_precision": chosen["mixed_precision"],
                                 "device.threads": chosen["threads"]})  # fmt: skip
    return run.worker.call(
        "nanogpt.training.rehearsal:rehearse", config=settled.model_dump(), device=device,
        folder=str(run.paths.state), seconds=(1 - CHOOSING_SHARE) * seconds, timeout=MEASURE_PATIENCE,
    )  # fmt: skip


def _is_out_of_memory(error: Exception) -> bool:
    """Told by the allocator, or by the death of the process that asked for too much."""
    died = isinstance(error, WorkerDied) and not isinstance(error, WorkerTimedOut)
    return died or classify(error) == OUT_OF_MEMORY


def make_plan(run: Run) -> Outcome:
    measured = run.facts("configuration.measure")
    plan = _planned(run, measured["models"], measured["unmeasured"])
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


def _planned(run: Run, models: dict, unmeasured: dict[str, str]) -> planner.Plan:
    device = _device(run)
    rungs = [
        rung.with_changes({"data.tokenizer": _tokenizer(run), "device.type": device})
        for rung in run.options.rungs
    ]  # fmt: skip
    return planner.make_plan(
        rungs, {name: forecast.speed_of(name, facts) for name, facts in models.items()}, unmeasured, run.config.budget,
        _phases(run), _corpus(run), _room(run, device), run.options.fixed, run.options.pinned,
    )  # fmt: skip


def _room(run: Run, device: str) -> int:
    """Bytes that a training may take."""
    proved = run.facts("environment.device")
    total = proved["memory_bytes"] if proved["device"] == device else psutil.virtual_memory().total
    return demands.room(device, total)


def _phases(run: Run) -> dict[str, float]:
    """What the phases beside training will take."""
    return pace.expected(run.paths.state.parent, run.config.budget, run.facts("dataset.fetch")["bytes"])


def _corpus(run: Run) -> forecast.Corpus:
    fetched, data = run.facts("dataset.fetch"), run.config.data
    of_characters = _tokenizer(run) == "char"
    bytes_per_token = fetched["bytes"] / fetched["characters"] if of_characters else BYTES_PER_BPE_TOKEN
    return forecast.Corpus(fetched["bytes"], fetched["characters"], fetched["alphabet_size"], data.val_fraction,
                           data.test_fraction, bytes_per_token)  # fmt: skip


def _tokenizer(run: Run) -> str:
    fetched = run.facts("dataset.fetch")
    return planner.tokenizer_for(run.options.rungs[0], fetched["bytes"], fetched["alphabet_size"])


def _resolved(run: Run, rung: Config) -> Config:
    """The rung with the tokenizer that it will have, and a vocabulary near enough for a measurement."""
    rung = rung.with_changes({"data.tokenizer": _tokenizer(run)})
    return demands.with_vocabulary(rung, run.facts("dataset.fetch")["alphabet_size"])


def _device(run: Run) -> str:
    return run.facts("implementation.checks")["device"]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _measure_settings(run: Run) -> dict:
    """Shapes and batch decide the speed; learning rates and schedules do not."""
    return {
        "budget": run.config.budget,
        "device": run.config.device.model_dump(),
        "models": {
            rung.name: {"model": rung.model.model_dump(), "batch_size": rung.training.batch_size,
                        "gradient_accumulation": rung.training.gradient_accumulation,
                        "gradient_checkpointing": rung.device.gradient_checkpointing,
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
