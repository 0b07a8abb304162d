"""What to change next time, drawn from the figures: one rule a finding, each with the number that caused it.

Every line is Markdown and ends in an exact command or setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.ledger.facts import BASELINES, DEVICE, EVALUATED, MEASURED, PLANNED, Remedy
from flows.report.commands import MORE_TIME, longer, with_budget, with_option
from flows.report.facts import ModelFacts, RunFacts
from flows.report.judgement import NOTICEABLE, PLAN_TOLERANCE, best_model, trained_models
from flows.report.markdown import code, safe
from flows.report.verdict import verdict
from nanogpt import faults
from nanogpt.config import Config, TrainingConfig
from nanogpt.training.record.metrics import read_metrics
from nanogpt.units import byte_size, duration, flops, percent

STILL_FALLING = 0.005  # share of the loss that one more tenth of the steps would take off
OVERFITTING = 0.10  # validation above training loss, as a share of the training loss
PAST_THE_BEST = 0.02  # final validation loss above the best, as a share
ENOUGH_DATA = 20  # tokens seen per parameter: Hoffmann et al. 2022, table 3
LOW_SHARE_OF_MATMUL = 0.15
LEAST_EVALUATIONS = 3  # of a curve

Row = dict[str, Any]  # of metrics.jsonl


def recommendations(facts: RunFacts) -> list[str]:
    """What to change next, the most pressing first; an empty list when nothing stands out."""
    return [str(line) for rule in RULES for line in rule(facts)]


def _failures(facts: RunFacts) -> Iterator[str]:
    for phase in facts.phases:
        if phase.status == "failed":
            command = phase.next_command or facts.command
            cause = (phase.cause or "no cause was recorded").rstrip(".")
            yield f"**Phase {phase.number} {safe(phase.title)} failed:** {safe(cause)}. Then: {code(command)}."


def _settings_from_remedies(facts: RunFacts) -> Iterator[str]:
    """One line a symptom and step: the setting that spares the next run the fault."""
    by_fault: dict[tuple[str, str], list[Remedy]] = {}
    for remedy in facts.remedies:
        by_fault.setdefault((remedy.symptom, remedy.step), []).append(remedy)
    for (symptom, step), remedies in by_fault.items():
        settings = _permanent_settings(symptom, facts.configs.get(step.partition(".")[2], Config()).training)
        if settings:
            times = "once" if len(remedies) == 1 else f"{len(remedies)} times"
            yield (
                f"**{safe(symptom)} in {safe(step)}, {times}** (mended by: {safe(remedies[-1].remedy)}). "
                f"Make it permanent: {code(_set(facts, *settings))}."
            )


def _permanent_settings(symptom: str, training: TrainingConfig) -> list[str]:
    if symptom == faults.OUT_OF_MEMORY:
        batch, accumulation = max(1, training.batch_size // 2), 2 * training.gradient_accumulation
        return [f"training.batch_size={batch}", f"training.gradient_accumulation={accumulation}"]
    if symptom == faults.NON_FINITE:
        rates = {"learning_rate": training.learning_rate, "muon_learning_rate": training.muon_learning_rate}
        return [f"training.{key}={rate / 2:g}" for key, rate in rates.items() if rate]
    if symptom in (faults.DEVICE, "stall"):
        return ["device.type=cpu"]
    return []


def _more_time(facts: RunFacts) -> Iterator[str]:
    for model, evaluations in _curves(facts):
        last = evaluations[-1]
        earlier = next((row for row in reversed(evaluations) if row["step"] <= 0.85 * last["step"]), None)
        if earlier is None:
            continue
        fall = (earlier["val_loss"] - last["val_loss"]) / (last["step"] - earlier["step"])
        if fall * last["step"] / 10 > STILL_FALLING * last["val_loss"]:
            yield (
                f"**{safe(model.name)} was still learning:** validation loss fell by {1000 * fall:.3f} per 1,000 "
                f"steps at the end (from {earlier['val_loss']:.4f} at step {earlier['step']:,} to "
                f"{last['val_loss']:.4f} at step {last['step']:,}). Give it more time: {code(longer(facts, model))}."
            )


def _overfitting(facts: RunFacts) -> Iterator[str]:
    for model, evaluations in _curves(facts):
        name, last = safe(model.name), evaluations[-1]
        best = min(evaluations, key=lambda row: float(row["val_loss"]))
        dropout = facts.configs.get(model.name, Config()).model.dropout
        more_dropout = code(_set(facts, f"model.dropout={min(0.5, dropout + 0.1):.1f}"))
        if last["val_loss"] > (1 + PAST_THE_BEST) * best["val_loss"]:
            yield (
                f"**{name} trained past its best:** validation loss was {best['val_loss']:.4f} at step "
                f"{best['step']:,} and {last['val_loss']:.4f} at the end; the best weights were kept. Stop earlier: "
                f"{code(_set(facts, 'training.early_stopping_patience=3'))}, or more dropout: {more_dropout}."
            )
        elif last.get("train_loss") and last["val_loss"] > (1 + OVERFITTING) * last["train_loss"]:
            gap = last["val_loss"] / last["train_loss"] - 1
            yield (
                f"**{name} overfits:** validation loss is {percent(gap)} above training loss "
                f"({last['val_loss']:.4f} against {last['train_loss']:.4f}). More text helps most "
                f"(`--data FOLDER`); else dropout, now {dropout:g}: {more_dropout}."
            )


def _against_baselines(facts: RunFacts) -> Iterator[str]:
    baselines, evaluated = facts.of(BASELINES), facts.of(EVALUATED)
    if baselines is None or evaluated is None:
        return
    found = verdict(facts)
    if found is not None and not found.has_learned:
        return  # its phase has failed for that
    ours = evaluated.models[evaluated.best].test.bits_per_byte
    stronger = [(value, name) for name, value in baselines.bits_per_byte.items() if value <= ours]
    if stronger:
        value, name = min(stronger)
        yield (
            f"**The best model is no better than {safe(name)}:** {ours:.3f} against {value:.3f} bits per byte on the "
            f"test split. It is undertrained for this text: {code(longer(facts, best_model(facts)))}."
        )


def _smaller_beats_larger(facts: RunFacts) -> Iterator[str]:
    best = best_model(facts)
    sizes = {model.name: model.trained for model in trained_models(facts) if model.trained}
    largest = max(sizes, key=lambda name: sizes[name].parameters, default=None)
    if best is None or largest is None or best.name == largest:
        return
    yield (
        f"**{safe(best.name)} beats {safe(largest)}:** the larger one saw only {sizes[largest].step:,} steps. It needs "
        f"more time: {code(longer(facts, facts.model(largest)))}."
    )


def _little_data(facts: RunFacts) -> Iterator[str]:
    best = best_model(facts)
    if best is None or best.trained is None or not best.trained.tokens:
        return
    ratio = best.trained.tokens / best.trained.parameters
    if ratio < ENOUGH_DATA / 4:
        yield (
            f"**{safe(best.name)} saw {ratio:.1f} tokens per parameter;** about {ENOUGH_DATA} is the best use of "
            f"compute (Hoffmann et al. 2022). More time on the same model: {code(longer(facts, best))}."
        )


def _memory_headroom(facts: RunFacts) -> Iterator[str]:
    best, device, plan = best_model(facts), facts.of(DEVICE), facts.of(PLANNED)
    if best is None or best.trained is None or device is None or plan is None:
        return
    total, used = device.memory_bytes, best.trained.peak_memory_bytes
    # For want of time, not of text, memory or disk: then flows.planning.planner says what the model would reach.
    feasible = [row.name for row in plan.left_out if "bits per byte" in row.reason]
    if used < total / 4 and feasible:
        yield (
            f"**Memory is not the limit:** the peak was {byte_size(used)} of {byte_size(total)} "
            f"({percent(used / total)}). With more time the plan can add {safe(feasible[0])}: "
            f"{code(with_budget(facts, MORE_TIME * facts.budget_seconds))}."
        )


def _low_share_of_matmul(facts: RunFacts) -> Iterator[str]:
    measured = facts.of(MEASURED)
    if measured is None or any(row.symptom == faults.OUT_OF_MEMORY for row in facts.remedies):
        return  # there is no memory for larger ones
    for model in trained_models(facts):
        speed = measured.models.get(model.name)
        if speed is not None and speed.share_of_matmul < LOW_SHARE_OF_MATMUL:
            config = facts.configs.get(model.name)
            doubled = 2 * (config.training.batch_size if config else speed.micro_batch)
            yield (
                f"**{safe(model.name)} used {percent(speed.share_of_matmul)} of the measured matrix-product peak** "
                f"({flops(speed.flops_per_second)}): its products are small. Larger micro-batches fill the machine "
                f"better: {code(_set(facts, f'training.batch_size={doubled}'))}."
            )


def _plan_missed(facts: RunFacts) -> Iterator[str]:
    for phase in facts.phases:
        planned, actual = phase.planned_seconds, phase.seconds
        if planned and actual and actual > (1 + PLAN_TOLERANCE) * planned and actual - planned > NOTICEABLE:
            yield (
                f"**Phase {phase.number} {safe(phase.title)} took {duration(actual)}, planned {duration(planned)}** "
                f"({percent(actual / planned - 1)} over). Close other programs, or allow for it: "
                f"{code(with_budget(facts, 1.25 * facts.budget_seconds))}."
            )


def _curves(facts: RunFacts) -> Iterator[tuple[ModelFacts, list[Row]]]:
    """Each trained model with its evaluations, where there are enough of them."""
    for model in trained_models(facts):
        evaluations = [row for row in read_metrics(Path(model.folder))[1] if row.get("val_loss") is not None]
        if len(evaluations) >= LEAST_EVALUATIONS:
            yield model, evaluations


def _set(facts: RunFacts, *settings: str) -> str:
    command = facts.command
    for setting in settings:
        command = with_option(command, "--set", setting)
    return command


RULES = (
    _failures,
    _settings_from_remedies,
    _more_time,
    _overfitting,
    _against_baselines,
    _smaller_beats_larger,
    _little_data,
    _memory_headroom,
    _low_share_of_matmul,
    _plan_missed,
)
