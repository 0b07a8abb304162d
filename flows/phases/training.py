"""Phase 5: each model of the plan is trained in a supervised child process, with remedies for what goes wrong."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from flows.ledger.facts import CHECKS, CLEANED, DEVICE, FETCHED, MEASURED, PLANNED, PlannedModel, Trained, trained
from flows.ledger.steps import Json, StepResult
from flows.planning.measure import NEXT_SMALLER
from flows.planning.missed_paces import FASTER, slowdown
from flows.planning.site import Site
from flows.report import cards
from flows.report.facts import collect
from flows.runner.repair import remake_damaged
from flows.runner.run import AnyStep, Phase, Run, Step, StepsWanted
from flows.supervision.model_files import ModelFiles
from flows.supervision.pace_watch import SYMPTOM
from flows.supervision.recovery import Assignment, DoesNotFit, Recovery, TooSlow
from flows.supervision.trainer_watch import draw_loss, load_drawing
from nanogpt import durable
from nanogpt.config import Config, load_config, token_folder
from nanogpt.export.front_matter import CARD
from nanogpt.faults import OUT_OF_MEMORY
from nanogpt.training.progress import other_settings, trajectory
from nanogpt.units import duration

FASTER_SYMPTOM = "faster than planned"


def training(run: Run) -> None:
    """The models of the plan, smallest first; where one does not fit, or was much slower or faster than planned, those
    of a new plan for the time that is left."""
    run.worker.close(kill=True)  # its memory is the trainer's now; idle, it would take 0.5 s to end by itself
    while (name := _next(run)) is not None:
        try:
            facts, folder = run.do(trained(name)), run.paths.model(name)
        except DoesNotFit as error:
            _plan_without(run, error)
            continue
        except TooSlow as error:
            _plan_for_slower_machine(run, error)
            continue
        loss = "none" if facts.best_val_loss is None else f"{facts.best_val_loss:.4f}"
        run.milestone(
            "training",
            f"{name}: validation loss {loss} after {facts.step:,} steps",
            f"{facts.parameters:,} parameters, {facts.tokens:,} tokens, {facts.seconds:.0f} s of training.",
            [run.paths.config(name), *(folder / file for file in ("metrics.jsonl", "outcome.json", "loss.svg"))],
        )
        planned = run.facts(PLANNED).model(name)
        has_clock = load_config(run.paths.config(name)).training.max_seconds is not None  # else its steps are given
        is_early = has_clock and facts.reason == "max_iters" and facts.seconds < FASTER * planned.seconds
        if (is_early or _next(run) is not None) and run.missed_paces.note(planned, facts):
            _plan_by_pace(run, planned, facts)


def _next(run: Run) -> str | None:
    """The first model of the plan that is not trained yet."""
    ladder = run.facts(PLANNED).ladder
    return next((model.name for model in ladder if not run.has_finished(trained(model.name))), None)


def _plan_by_pace(run: Run, planned: PlannedModel, facts: Trained) -> None:
    """This machine is busier than when it was measured, or was busy then."""
    symptom = SYMPTOM if slowdown(planned, facts) > 1 else FASTER_SYMPTOM
    evidence = (
        f"{facts.step:,} steps took {duration(facts.seconds)}; about {planned.steps:,} were planned in "
        f"{duration(planned.seconds)}"
    )
    _measure_and_plan_again(run, planned.name, symptom, evidence)


def _plan_for_slower_machine(run: Run, error: TooSlow) -> None:
    """What the model has trained stays: where the new plan has it as well, it continues, and then until its time is
    over."""
    run.missed_paces.note_given_up(error.name)
    _measure_and_plan_again(run, error.name, SYMPTOM, error.evidence)


def _measure_and_plan_again(run: Run, name: str, symptom: str, evidence: str) -> None:
    """For the time that is left."""
    began = run.clock.spent
    names = _plan_again(run)
    outcome, seconds = f"now {', then '.join(names)}", run.clock.spent - began
    run.journal.record(trained(name).step, symptom, evidence, "measured and planned again", outcome, seconds)


def _plan_without(run: Run, error: DoesNotFit) -> None:
    """Remember what does not fit, and plan again: the models that are trained stay. Raises RuntimeError where no plan
    can be made without it."""
    config = load_config(run.paths.config(error.name))
    began, earlier = run.clock.spent, len(run.journal.remedies)
    run.limits.note(config, _site(run, config), None, error.evidence)
    names = _plan_again(run)
    if error.name in names:
        raise RuntimeError(f"{error}; there is no other plan") from error
    if NEXT_SMALLER not in [row.remedy for row in run.journal.remedies[earlier:]]:
        run.journal.record(
            trained(error.name).step,
            OUT_OF_MEMORY,
            error.evidence,
            NEXT_SMALLER,
            f"now {', then '.join(names)}",
            run.clock.spent - began,
        )


def _plan_again(run: Run) -> list[str]:
    """The names of the models of a new plan; those that are to train for longer count as not trained yet."""
    run.do(MEASURED)
    run.worker.close()
    plan = run.do(PLANNED)
    run.journal.display.forecast(plan.forecast())
    names = [model.name for model in plan.ladder]
    for name in names:  # one that is to train for longer has other settings than the marker of what it was
        key = trained(name)
        if run.has_finished(key) and not run.ledger.decide(run.step(key), _settings(run, name)).keep:
            run.step_runner.finished.discard(key.step)
    return names


def train_model(run: Run, name: str) -> StepResult[Trained]:
    config, plan = load_config(run.paths.config(name)), run.facts(PLANNED)
    files, key = ModelFiles(run.paths.model(name)), trained(name)
    if key.step in run.options.redo:
        _set_aside(run, files.folder, "is trained again (--redo)")
    elif changes := other_settings(files.folder, config, _data_folder(run, config)):
        _set_aside(run, files.folder, f"was trained with other settings before ({changes})")
    load_drawing()
    outcome = _recovery(run, config, files).train()
    if not files.has_best():
        raise RuntimeError(
            f"{files.folder / 'best'} is missing: no evaluation gave a number, or it was removed; train again with "
            f"--redo {key.step}"
        )
    planned = plan.model(name)
    facts = Trained(
        **asdict(outcome),
        folder=run.paths.relative(files.folder),
        predicted_seconds=planned.seconds,
        predicted_steps=planned.steps,
        expected_bits_per_byte=planned.expected_bits_per_byte,
        remedies=[row for row in run.journal.remedies if row.step == key.step],
    )
    draw_loss(files.folder)
    run.journal.display.image(f"loss-{name}", files.folder / "loss.svg", f"{name}: the loss")
    cards.write(cards.of_training(collect(run), name, facts), files.folder / CARD)
    best, final = sorted((files.folder / "best").iterdir()), sorted((files.folder / "final").iterdir())
    to_use_them = [files.folder / "config.yaml", *sorted(files.folder.glob("tokenizer*.json"))]
    records = [files.folder / name for name in ("metrics.jsonl", "samples.jsonl", "loss.svg", "data.json")]
    identity = {"sha256": facts.sha256, "best": durable.sha256_file(files.folder / "best" / "model.safetensors")}
    return StepResult(facts, [*best, *final, *to_use_them, *records], identity)


def _recovery(run: Run, config: Config, files: ModelFiles) -> Recovery:
    assignment = Assignment(
        config=config,
        config_file=run.paths.config(config.name),
        data=_data_folder(run, config),
        log=run.paths.logs / f"{config.name}.log",
        site=_site(run, config),
        plan=run.facts(PLANNED),
        has_smaller=_has_smaller(run, config.name),
    )
    return Recovery(
        assignment,
        files,
        run.journal,
        run.clock,
        run.accelerator,
        run.disk,
        run.limits,
        run.conditions,
        remake_data=lambda: remake_damaged(run, "dataset"),
        pulse=run.pulse,
    )


def _has_smaller(run: Run, name: str) -> bool:
    """Whether a smaller model was measured that could have the time of this one, which was not given up before."""
    models = run.facts(MEASURED).models if run.has_finished(MEASURED) else {}
    smaller = [model for model in models.values() if name in models and model.parameters < models[name].parameters]
    return bool(smaller) and not run.missed_paces.was_given_up(name)


def _site(run: Run, config: Config) -> Site:
    """Where this model is trained."""
    asked = run.facts(CHECKS).device if config.device.type == "auto" else config.device.type
    alphabet_size = run.facts(FETCHED).alphabet_size or run.facts(CLEANED).alphabet_size
    return Site.of(run.accelerator.current(asked), run.facts(DEVICE), alphabet_size)


def _set_aside(run: Run, folder: Path, why: str) -> None:
    """Move a model's folder away whole; one predecessor is kept. It is no damage: *.previous is a trained model that a
    person may want back, and is removed later than *.bad where the disk is full."""
    if not folder.exists():
        return
    previous = durable.set_aside(folder, ".previous")
    run.journal.message(f"{folder.name} {why}; its files are now in {run.paths.relative(previous)}")


def _data_folder(run: Run, config: Config) -> Path:
    return run.paths.data / token_folder(config.data.tokenizer)


def _settings(run: Run, name: str) -> Json:
    """What decides the weights; the device, the clock and how often something is written do not."""
    config = load_config(run.paths.config(name))
    return {**trajectory(config, ""), "tokenizer": config.data.tokenizer}


# What decides the weights. How they fit, are stored and are shown does not (tests/test_declared_code.py has why).
WEIGHTS = (
    "nanogpt/model/**",
    "nanogpt/kernels/**",
    "nanogpt/training/*.py",
    "nanogpt/training/update/**",
    "nanogpt/data/augmentation.py",
    "nanogpt/data/chapters.py",
    "nanogpt/data/data_loader.py",
    "nanogpt/data/mixture.py",
    "nanogpt/data/order.py",
    "nanogpt/device.py",
    "nanogpt/config.py",
)


def _step(name: str, tokens: tuple[str, ...]) -> Step[Trained]:
    return Step(
        key=trained(name),
        title=f"Train {name}",
        work=lambda run: train_model(run, name),
        settings=lambda run: _settings(run, name),
        needs=(*tokens, "implementation.checks"),
        code=WEIGHTS,
        costly=True,
    )


def steps(wanted: StepsWanted) -> list[AnyStep]:
    tokens = ("dataset.bpe",) if wanted.text == "in pieces" else ("dataset.characters", "dataset.bpe")
    return [_step(name, tokens) for name in wanted.models]


PHASE = Phase("training", training, steps)
