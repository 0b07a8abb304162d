"""Phase 3: a short measurement on this machine, and from it and the budget every model's resolved YAML."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from flows.context.options import PHASES
from flows.ledger.ledger import Outcome, Step
from flows.machine import accelerator
from flows.machine.worker import WorkerDied, WorkerTimedOut
from flows.phases.dataset import FETCH
from flows.planning import budget as pace
from flows.planning import footprint as demands
from flows.planning import forecast, planner
from flows.planning import memory_limits as remembered
from flows.planning.candidates import candidates, shipped_below
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.config import Config, load_config, save_config
from nanogpt.faults import DEVICE, OUT_OF_MEMORY, UserError, classify
from nanogpt.machine import memory_bytes
from nanogpt.measure.sizes import parameters, tokens_per_step
from nanogpt.records import to_json

CHOOSING_SHARE = 0.6  # of the time of a measurement for precision and threads; the rest is for the speed itself
NEXT_SMALLER = "the next smaller model"  # the remedy where one does not fit into memory
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


def plan_again(run: Run) -> None:
    """In the middle of the training: a ladder without what did not fit, for the time that is left."""
    run.do(MEASURE)
    run.worker.close()
    run.do(PLAN)


def measure_speed(run: Run) -> Outcome:
    """Seconds per real step, and of what is done beside, of each model that might be trained, in what is fastest.

    Where none of those asked for fits into memory, the next smaller shipped one is measured in their place. Raises
    RuntimeError when not even the smallest does.
    """
    return Outcome(facts=accelerator.on_device(run, "configuration.measure", lambda _: _measure_all(run)))


def _measure_all(run: Run) -> dict:
    models, unmeasured, in_bfloat16 = {}, {}, False
    asked_for = {rung.name for rung in run.options.rungs}
    for rung in candidates(run):
        if models and rung.name not in asked_for:
            break
        rung = _resolved(run, rung)
        if in_bfloat16:  # faster for a smaller model already, and larger products gain more: float32 is not timed
            rung = rung.with_changes({"device.mixed_precision": True})
        if reason := _does_not_fit(run, rung, unmeasured, alone=not models):
            unmeasured[rung.name] = reason
            continue
        if models and (reason := _why_not_measured(run, rung, models)):
            unmeasured[rung.name] = reason
            continue
        try:
            speed = _measured(run, rung, alone=not models)
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if _is_of_accelerator(error, _device(run)) or not (models or _is_out_of_memory(error)):
                raise
            unmeasured[rung.name] = f"cannot be trained here: {error}"
            continue
        if not models and (reason := planner.too_much(speed["peak_memory_bytes"], _room(run, _device(run)))):
            unmeasured[rung.name] = reason
            continue
        models[rung.name] = speed
        in_bfloat16 = speed["mixed_precision"] is True
        threads = "1 thread" if speed["threads"] == 1 else f"{speed['threads']} threads"
        run.tell(f"{rung.name}: {speed['parameters'] / 1e6:.1f} M parameters, "
                 f"{speed['tokens_per_second']:,.0f} tokens/s in {speed['precision']}, {threads}")  # fmt: skip
    _tell_of_the_smaller(run, models, unmeasured)
    is_decided = run.options.fixed or run.options.pinned & planner.STEP_SPLIT
    if run.config.budget >= pace.BUDGET_FOR_MICRO_BATCHES and not is_decided:
        _find_micro_batch(run, models)
    return {"models": models, "unmeasured": unmeasured}


def _does_not_fit(run: Run, rung: Config, unmeasured: dict[str, str], alone: bool) -> str | None:
    """Why `rung` need not be tried for memory alone: it did not fit before, nor did a smaller one, or so it is
    predicted. `alone`: no smaller one has fitted, so that its windows may be cut."""
    before = remembered.too_large(run, [*run.options.rungs, rung])
    if rung.name in before:
        return before[rung.name]
    size = parameters(rung.model).total
    for other in run.options.rungs:
        if other.name in before and parameters(_resolved(run, other).model).total < size:
            return f"is larger than {other.name}, which {before[other.name]}"
    device = _device(run)
    room = _room(run, device)
    if demands.fitted(rung, device, room, windows=alone) is None:
        least = _least(rung, alone)
        return (f"is predicted to need {_gib(demands.memory_needed(least, device))} even with one sequence at a time; "
                f"{_gib(room)} are there for a training")  # fmt: skip
    return None


def _least(rung: Config, windows: bool) -> Config:
    """`rung` with as little memory as can be had."""
    while (less := demands.smaller(rung, windows)) is not None:
        rung = less
    return rung


def _tell_of_the_smaller(run: Run, models: dict, unmeasured: dict[str, str]) -> None:
    """A row in the report where what was asked for does not fit and a smaller model takes its place."""
    asked_for = [rung.name for rung in run.options.rungs]
    if set(asked_for) & models.keys():
        return
    reasons = "; ".join(f"{name} {reason}" for name, reason in unmeasured.items())
    if not models:
        raise MemoryError(f"no model fits into memory: {reasons}")
    run.remedy(
        step=MEASURE.name, symptom=OUT_OF_MEMORY, evidence=f"{asked_for[0]} {unmeasured[asked_for[0]]}",
        remedy=NEXT_SMALLER, outcome=next(iter(models)), cost_seconds=0.0, steps_lost=0,
    )  # fmt: skip


def _find_micro_batch(run: Run, models: dict) -> None:
    """The fastest micro-batch for the model that will get most of the time; kept in state/ for later runs."""
    chosen = _planned(run, models, {}).ladder[-1].config
    rung = demands.with_vocabulary(chosen, run.facts("dataset.fetch")["alphabet_size"])
    sequences = rung.training.batch_size * rung.training.gradient_accumulation
    try:
        found = to_json(run.worker.call(
            "nanogpt.measure.batch_finder:find_for", config=rung.model_dump(), folder=str(run.paths.state.parent),
            seconds=pace.micro_batch_seconds(run.config.budget), timeout=MEASURE_PATIENCE,
        ))  # fmt: skip
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
    """What speaks against `rung` before a step of it is tried: disk, too little text or too little time."""
    free = shutil.disk_usage(run.paths.workspace).free
    if demands.disk_needed(rung) > free:
        return f"its checkpoints would need {_gib(demands.disk_needed(rung))}; {_gib(free)} of the disk are free"
    if reason := planner.starved(parameters(rung.model).total, _corpus(run)):
        return reason
    measured = [forecast.speed_of(name, facts) for name, facts in models.items()]
    step_tokens = {rung.name: tokens_per_step(rung) for rung in run.options.rungs}
    seconds = pace.training_seconds(run.config.budget, _phases(run))
    return planner.hopeless(parameters(rung.model).total, measured, step_tokens, seconds, _corpus(run))


def _measured(run: Run, rung: Config, alone: bool = False) -> dict:
    """The speed of `rung`, as it fitted before and made smaller until it fits now; the effective batch stays.

    `alone`: no smaller model has fitted, so that its windows may be cut too.
    """
    device = _device(run)
    rung = remembered.as_settled(run, rung)
    rung = demands.fitted(rung, device, _room(run, device), windows=alone) or rung
    while True:
        try:
            speed = _measured_once(run, rung, device)
        except (WorkerDied, RuntimeError, MemoryError) as error:
            less = demands.smaller(rung, windows=alone)
            if less is None or not _is_out_of_memory(error):
                raise
            run.tell(f"{rung.name}: out of memory with {demands.how_it_fits(rung)}; now {demands.how_it_fits(less)}",
                     "warning")  # fmt: skip
            rung = less
            continue
        training = rung.training
        return {**speed, "batch_size": training.batch_size, "gradient_accumulation": training.gradient_accumulation,
                "gradient_checkpointing": rung.device.gradient_checkpointing,
                "longest_window": rung.device.longest_window,
                "micro_batch": training.batch_size, "share_of_peak": speed["share_of_matmul"]}  # fmt: skip


def _measured_once(run: Run, rung: Config, device: str) -> dict:
    seconds = pace.measure_seconds(run.config.budget)
    chosen = to_json(run.worker.call(
        "nanogpt.measure.profiler:choose_precision_and_threads", config=rung.model_dump(), device=device,
        seconds=CHOOSING_SHARE * seconds, timeout=MEASURE_PATIENCE,
    ))  # fmt: skip
    settled = rung.with_changes({"device.mixed_precision": chosen["mixed_precision"],
                                 "device.threads": chosen["threads"]})  # fmt: skip
    return to_json(run.worker.call(
        "nanogpt.measure.rehearsal:rehearse", config=settled.model_dump(), device=device,
        folder=str(run.paths.state), seconds=(1 - CHOOSING_SHARE) * seconds, timeout=MEASURE_PATIENCE,
    ))  # fmt: skip


def _is_out_of_memory(error: Exception) -> bool:
    """Told by the allocator, or by the death of the process that asked for too much."""
    died = isinstance(error, WorkerDied) and not isinstance(error, WorkerTimedOut)
    return classify(error) == OUT_OF_MEMORY or (died and classify(error) != DEVICE)


def _is_of_accelerator(error: Exception, device: str) -> bool:
    """Whether it is the device that fails, whatever the model: it says so, or it hangs."""
    return device != "cpu" and (isinstance(error, WorkerTimedOut) or classify(error) == DEVICE)


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
    asked_for = [rung.name for rung in run.options.rungs]
    rungs = [
        rung.with_changes({"data.tokenizer": _tokenizer(run), "device.type": device})
        for rung in candidates(run) if rung.name in (*asked_for, *models)
    ]  # fmt: skip
    as_written = run.options.fixed and asked_for[0] in models
    phases = _phases(run)
    trained = _trained(run)
    seconds = _seconds_left(run, phases, trained) if _is_training(run) else None
    return planner.make_plan(
        rungs, {name: forecast.speed_of(name, facts) for name, facts in models.items()}, unmeasured, run.config.budget,
        phases, _corpus(run), _room(run, device), as_written, run.options.pinned, trained, seconds,
    )  # fmt: skip


def _is_training(run: Run) -> bool:
    return run.phases[PHASES.index("training")].status == "running"


def _trained(run: Run) -> list[planner.Rung]:
    """The models of the plan before this one that have been trained in this session."""
    plan = run.paths.state / "plan.json"
    rungs = durable.read_json(plan)["ladder"] if _is_training(run) and plan.is_file() else []
    figures = ("parameters", "tokens", "seconds", "memory_bytes", "expected_bits_per_byte", "why")
    return [
        planner.Rung(load_config(run.paths.configs / f"{rung['name']}.yaml"), **{key: rung[key] for key in figures})
        for rung in rungs if f"training.{rung['name']}" in run.finished_steps
    ]  # fmt: skip


def _seconds_left(run: Run, phases: dict[str, float], trained: Sequence[planner.Rung]) -> float:
    """For the training in all, when the plan is made again in its middle: what is gone is gone."""
    later = sum(phases[name] for name in PHASES[PHASES.index("training") + 1 :])
    left = run.clock.left - later - pace.MARGIN * run.config.budget
    return max(pace.LEAST_SECONDS, left) + sum(rung.seconds for rung in trained)


def _room(run: Run, device: str) -> int:
    """Bytes that a training may take."""
    proved = run.facts("environment.device")
    total = proved["memory_bytes"] if proved["device"] == device else memory_bytes()
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
    return accelerator.device_of(run)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _measure_settings(run: Run) -> dict:
    """Shapes and batch decide the speed; learning rates and schedules do not."""
    return {
        "budget": run.config.budget,
        "device": run.config.device.model_dump(), **_too_large(run),
        "models": {
            rung.name: {"model": rung.model.model_dump(), "batch_size": rung.training.batch_size,
                        "gradient_accumulation": rung.training.gradient_accumulation,
                        "gradient_checkpointing": rung.device.gradient_checkpointing,
                        "optimizer": rung.training.optimizer, "tokenizer": rung.data.tokenizer}
            for rung in run.options.rungs
        },
    }  # fmt: skip


def _too_large(run: Run) -> dict:
    """What did not fit into memory: with one more, or with memory for it, there is another plan to make."""
    found = remembered.too_large(run, run.options.rungs)
    if not found:
        return {}
    return {"too_large": sorted(found | remembered.too_large(run, shipped_below(run)))}


def _plan_settings(run: Run) -> dict:
    return {
        "budget": run.config.budget, "data": run.config.data.model_dump(), "device": run.config.device.model_dump(),
        **_too_large(run),
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
    code=("flows.planning.planner", "flows.phases.configuration"), costly=True, decides=True,
)  # fmt: skip
STEPS = [MEASURE, PLAN]
