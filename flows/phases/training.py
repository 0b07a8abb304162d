"""Phase 5: each model of the plan is trained in a supervised child process, with remedies for what goes wrong."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from flows.ledger.ledger import Outcome, Step
from flows.phases.configuration import NEXT_SMALLER, plan_again
from flows.planning import memory_limits as remembered
from flows.report import documents
from flows.runner.run import Run
from flows.supervision.recovery import DoesNotFit, Treatment
from flows.supervision.trainer_watch import draw_loss
from nanogpt import durable
from nanogpt.config import Config, load_config
from nanogpt.faults import OUT_OF_MEMORY, UserError
from nanogpt.training.progress import check_same_training, trajectory


def training(run: Run) -> None:
    """The models of the plan, smallest first; where one does not fit, those of a new plan for the time that is left."""
    run.worker.close()  # its memory is the trainer's now
    while (name := _next(run)) is not None:
        try:
            facts, folder = run.do(step(name)), run.paths.checkpoints / name
        except DoesNotFit as error:
            _plan_without(run, error)
            continue
        loss = "none" if facts["best_val_loss"] is None else f"{facts['best_val_loss']:.4f}"
        run.milestone(
            "training", f"{name}: validation loss {loss} after {facts['step']:,} steps",
            f"{facts['parameters']:,} parameters, {facts['tokens']:,} tokens, {facts['seconds']:.0f} s of training.",
            [run.paths.configs / f"{name}.yaml",
             *(folder / file for file in ("metrics.jsonl", "outcome.json", "loss.svg"))],
        )  # fmt: skip


def _next(run: Run) -> str | None:
    """The first model of the ladder that is not trained yet."""
    ladder = run.facts("configuration.plan")["ladder"]
    return next((rung["name"] for rung in ladder if f"training.{rung['name']}" not in run.finished_steps), None)


def _plan_without(run: Run, error: DoesNotFit) -> None:
    """Remember what does not fit, and plan again: the models that are trained stay. Raises RuntimeError where no plan
    can be made without it."""
    config = load_config(run.paths.configs / f"{error.name}.yaml")
    began, told = run.clock.spent, len(run.remedies)
    remembered.note(run, config, None, error.evidence)
    plan_again(run)
    names = [rung["name"] for rung in run.facts("configuration.plan")["ladder"]]
    if error.name in names:
        raise RuntimeError(f"{error}; it could not be planned without") from error
    if NEXT_SMALLER not in [row["remedy"] for row in run.remedies[told:]]:
        run.remedy(
            step=f"training.{error.name}", symptom=OUT_OF_MEMORY, evidence=error.evidence, remedy=NEXT_SMALLER,
            outcome=f"now {', then '.join(names)}", cost_seconds=round(run.clock.spent - began, 1), steps_lost=0,
        )  # fmt: skip
    for name in names:  # one that goes on for longer has other settings than the marker of what it was
        if f"training.{name}" in run.finished_steps and not run.ledger.decide(step(name), _settings(run, name)).keep:
            run.finished_steps.discard(f"training.{name}")


def train_model(run: Run, name: str) -> Outcome:
    config = load_config(run.paths.configs / f"{name}.yaml")
    folder = run.paths.checkpoints / name
    if f"training.{name}" in run.options.redo:
        _set_aside(run, folder, "is trained again (--redo)")
    elif _is_other_training(run, config, folder):
        _set_aside(run, folder, "was trained with other settings before")
    ending = Treatment(run, config, folder).until_it_ends()
    if not (folder / "best").is_dir():
        raise RuntimeError(f"{folder / 'best'} is missing: no evaluation gave a number, or it was removed; train again "
                           f"with --redo training.{name}")  # fmt: skip
    facts = {
        **ending.outcome, "folder": run.relative(folder), "predicted_seconds": _planned(run, name)["seconds"],
        "expected_bits_per_byte": _planned(run, name)["expected_bits_per_byte"],
        "remedies": [row for row in run.remedies if row["step"] == f"training.{name}"],
    }  # fmt: skip
    draw_loss(folder)
    run.display.image(f"loss-{name}", folder / "loss.svg", f"{name}: the loss")
    documents.render_model_card({"name": name, "facts": facts, "config": config.model_dump()}, folder / "README.md")
    weights = sorted((folder / "best").iterdir()) + sorted((folder / "final").iterdir())
    to_use_them = [folder / "config.yaml", *sorted(folder.glob("tokenizer*.json"))]
    return Outcome([*weights, *to_use_them, folder / "metrics.jsonl"], facts, identity={"sha256": facts["sha256"],
                   "best": durable.sha256_file(folder / "best" / "model.safetensors")})  # fmt: skip


def _is_other_training(run: Run, config: Config, folder: Path) -> bool:
    """Whether `folder` holds a training with other settings or data.

    More steps, or more time, are the same training: it goes on from before the cool-down.
    """
    try:
        before = load_config(folder / "config.yaml")
        data = durable.read_json(folder / "data.json")["manifest_sha256"]
    except (UserError, OSError, ValueError, KeyError):
        return False
    same_vocabulary = config.with_changes({"model.vocab_size": before.model.vocab_size})
    now = durable.sha256_file(_data_folder(run, config) / "manifest.json")
    try:
        check_same_training(trajectory(before, data), trajectory(same_vocabulary, now), config.training.schedule, "")
    except UserError:
        return True
    return False


def _set_aside(run: Run, folder: Path, why: str) -> None:
    """Move a model's folder away whole; one predecessor is kept."""
    if not folder.exists():
        return
    previous = folder.with_name(f"{folder.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    folder.rename(previous)
    run.tell(f"{folder.name} {why}; what there was is now in {run.relative(previous)}")


def _planned(run: Run, name: str) -> dict:
    return next(rung for rung in run.facts("configuration.plan")["ladder"] if rung["name"] == name)


def _data_folder(run: Run, config: Config) -> Path:
    return run.paths.data / config.data.tokenizer


def _settings(run: Run, name: str) -> dict:
    """What decides the weights; the device, the clock and how often something is written do not."""
    config = load_config(run.paths.configs / f"{name}.yaml")
    return {**trajectory(config, ""), "tokenizer": config.data.tokenizer}


def step(name: str) -> Step:
    return Step(
        f"training.{name}", f"Train {name}", lambda run: train_model(run, name), lambda run: _settings(run, name),
        needs=("dataset.characters", "dataset.bpe", "implementation.checks"),
        code=("nanogpt/model/", "nanogpt/training/", "nanogpt/data/data_loader.py"), costly=True,
    )  # fmt: skip


def steps(models: Sequence[str]) -> list[Step]:
    return [step(name) for name in models]
