"""What to change next time, drawn from the figures: rules over facts, merged, ranked by what they are expected to gain.

A rule gives findings. Findings that advise the same change become one recommendation, so that no two repeat each
other; the most pressing comes first, and at most MOST of them are given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from flows.ledger.facts import (
    BASELINES,
    BYTE_PAIRS,
    CHARACTERS,
    DEVICE,
    EVALUATED,
    FETCHED,
    MEASURED,
    PLANNED,
    Remedy,
    Tokenised,
    Trained,
)
from flows.planning import weight_decay
from flows.planning.forecast import PLAYS, law_of
from flows.report.commands import MORE_TIME, longer, texts, with_budget, with_option
from flows.report.facts import ModelFacts, RunFacts
from flows.report.judgement import NOTICEABLE, PLAN_TOLERANCE, best_model, trained_models
from flows.report.markdown import safe
from flows.report.verdict import verdict
from nanogpt import faults
from nanogpt.config import Config, TrainingConfig
from nanogpt.training.record.metrics import Row, read_metrics
from nanogpt.units import byte_size, duration, flops, number, percent

MOST = 5  # recommendations
STILL_FALLING = 0.005  # share of the loss that one more tenth of the steps would take off
OVERFITTING = 0.10  # validation above training loss, as a share of the training loss
ALIKE = 2.1  # times a weight decay: a plan that expected a few steps more or fewer may have given half or twice of it
PAST_THE_BEST = 0.02  # final validation loss above the best, as a share
PATIENCE = 3  # evaluations without a better loss, after which a training that is past its best may stop
ENOUGH_DATA = 20  # tokens seen per parameter: Hoffmann et al. 2022, table 3
LOW_SHARE_OF_MATMUL = 0.15
LEAST_EVALUATIONS = 3  # of a curve
LAW = "by the scaling law of docs/plan.md"

ON_CPU = ["device.type=cpu"]


class Gain(IntEnum):
    """What a change is expected to gain, the most important first."""

    WHOLE_RUN = 0  # a phase that failed would be done
    QUALITY = 1  # bits per byte
    TIME = 2  # seconds


@dataclass(frozen=True)
class Finding:
    """What a rule found. Findings with the same `change` are merged. `size`: bits per byte, or seconds, by `kind`."""

    change: str
    advice: str  # what to do, in a few words
    because: str  # Markdown: the figures that it rests on, without its full stop
    command: str
    kind: Gain
    size: float
    expected: str  # the gain in words, with its figure


@dataclass(frozen=True)
class Recommendation:
    """`because` is Markdown; the rest is plain text. `expected`: the expected gain, with its figure."""

    advice: str
    because: str
    command: str
    expected: str


def recommendations(facts: RunFacts) -> list[Recommendation]:
    """What to change next, by expected gain; an empty list when nothing stands out."""
    merged: dict[str, list[Finding]] = {}
    for rule in RULES:
        for finding in rule(facts):
            merged.setdefault(finding.change, []).append(finding)
    groups = [sorted(group, key=_rank) for group in merged.values()]
    return [_merged(group) for group in sorted(groups, key=lambda group: _rank(group[0]))][:MOST]


def _rank(finding: Finding) -> tuple[int, float]:
    return finding.kind, -finding.size


def _merged(group: list[Finding]) -> Recommendation:
    """One recommendation of findings that advise the same: the command of the greatest gain, all reasons."""
    first = group[0]
    reasons = list(dict.fromkeys(finding.because for finding in group))
    return Recommendation(first.advice, "; ".join(reasons), first.command, first.expected)


def _failures(facts: RunFacts) -> Iterator[Finding]:
    found = verdict(facts)
    for phase in facts.phases:
        if phase.status == "failed":
            is_too_short = found is not None and phase.cause == found.headline
            yield Finding(
                change=f"mend {phase.name}",
                advice="Train long enough to learn" if is_too_short else f"Fix phase {phase.number} {phase.title}",
                because=safe((phase.cause or "no cause was recorded").rstrip(".")),
                command=phase.next_command or facts.command,
                kind=Gain.WHOLE_RUN,
                size=-phase.number,
                expected="a model that has learned" if is_too_short else "the rest of the run",
            )


def _settings_from_remedies(facts: RunFacts) -> Iterator[Finding]:
    """The setting that spares the next run the fault."""
    by_fault: dict[tuple[str, str], list[Remedy]] = {}
    for remedy in facts.remedies:
        by_fault.setdefault((remedy.symptom, remedy.step), []).append(remedy)
    for (symptom, step), remedies in by_fault.items():
        settings = _permanent_settings(symptom, facts.configs.get(step.partition(".")[2], Config()).training)
        if settings:
            times = "once" if len(remedies) == 1 else f"{len(remedies)} times"
            cost = sum(remedy.cost_seconds for remedy in remedies)
            yield Finding(
                change="use the CPU" if settings == ON_CPU else f"spare {symptom}",
                advice=f"Make the remedy for {symptom.replace('_', ' ')} permanent",
                because=f"{safe(symptom)} in {safe(step)}, {times} (repaired by: {safe(remedies[-1].remedy)})",
                command=_set(facts, *settings),
                kind=Gain.TIME,
                size=cost,
                expected=f"{duration(cost)} that this run lost to it",
            )


def _permanent_settings(symptom: str, training: TrainingConfig) -> list[str]:
    if symptom == faults.OUT_OF_MEMORY:
        batch, accumulation = max(1, training.batch_size // 2), 2 * training.gradient_accumulation
        return [f"training.batch_size={batch}", f"training.gradient_accumulation={accumulation}"]
    if symptom == faults.NON_FINITE:
        rates = {"learning_rate": training.learning_rate, "muon_learning_rate": training.muon_learning_rate}
        return [f"training.{key}={rate / 2:g}" for key, rate in rates.items() if rate]
    if symptom in (faults.DEVICE, "stall"):
        return ON_CPU
    return []


def _more_time(facts: RunFacts) -> Iterator[Finding]:
    """Every sign that time is what was wanting, of the best model or of one that should be better than it."""
    model = _wants_time(facts)
    if model is None:
        return
    reasons = [*_still_learning(facts, model), *_weaker_than_baseline(facts), *_beaten_by_smaller(facts)]
    reasons += [*_few_tokens(model), *_room_for_larger(facts)]
    for reason in reasons:
        size, expected = _gain_of_time(facts, model)
        yield Finding("time", "Train longer", reason, longer(facts, model), Gain.QUALITY, size, expected)


def _wants_time(facts: RunFacts) -> ModelFacts | None:
    """The model that more time is for: the best, or a larger one that it beats; None where more would do harm."""
    best, largest = best_model(facts), _largest(facts)
    found = verdict(facts)
    if best is None or (found is not None and not found.has_learned):  # its phase has failed for that
        return None
    model = largest or best
    return None if _is_past_its_best(facts, model) else model


def _largest(facts: RunFacts) -> ModelFacts | None:
    return max(trained_models(facts), key=lambda model: model.trained.parameters if model.trained else 0, default=None)


def _gain_of_time(facts: RunFacts, model: ModelFacts) -> tuple[float, str]:
    """Bits per byte that MORE_TIME times the tokens take off, and that in words."""
    trained, text, fetched = model.trained, facts.of(CHARACTERS) or facts.of(BYTE_PAIRS), facts.of(FETCHED)
    if trained is None or not trained.tokens or not trained.step or text is None:
        return 0.0, "a lower loss; how much is not known"
    plan = facts.of(PLANNED)
    whole = plan.text.bytes if plan and plan.text else 0  # more is fetched for a plan that reads more
    law = law_of(fetched.source, fetched.pieces > 0) if fetched else PLAYS
    there = max(_train_tokens(text), int(whole / text.bytes_per_token))
    of_step = trained.tokens / trained.step
    now, then = (
        law.after(trained.parameters, times * trained.tokens, of_step, there, text.bytes_per_token)
        for times in (1, MORE_TIME)
    )
    size = max(0.0, now - then)
    evaluated = facts.of(EVALUATED)
    figures = evaluated.models.get(model.name) if evaluated else None
    if size < 0.005:
        return size, f"less than 0.01 bits per byte, {LAW}"
    if figures is None:
        return size, f"about {size:.2f} bits per byte, {LAW}"
    bits = figures.test.bits_per_byte
    return size, f"about {size:.2f} bits per byte, from {bits:.2f} to {bits - size:.2f}, {LAW}"


def _still_learning(facts: RunFacts, model: ModelFacts) -> Iterator[str]:
    evaluations = dict(_curves(facts)).get(model.name, [])
    last = evaluations[-1] if evaluations else {}
    earlier = next((row for row in reversed(evaluations) if row["step"] <= 0.85 * last["step"]), None)
    if earlier is None:
        return
    fall = (earlier["val_loss"] - last["val_loss"]) / (last["step"] - earlier["step"])
    if fall * last["step"] / 10 > STILL_FALLING * last["val_loss"]:
        yield (
            f"{safe(model.name)} was still learning: its validation loss fell by {1000 * fall:.3f} per 1,000 steps at "
            f"the end (from {earlier['val_loss']:.4f} at step {earlier['step']:,} to {last['val_loss']:.4f} at step "
            f"{last['step']:,})"
        )


def _weaker_than_baseline(facts: RunFacts) -> Iterator[str]:
    baselines, evaluated = facts.of(BASELINES), facts.of(EVALUATED)
    if baselines is None or evaluated is None:
        return
    ours = evaluated.models[evaluated.best].test.bits_per_byte
    stronger = [(value, name) for name, value in baselines.bits_per_byte.items() if value <= ours]
    if stronger:
        value, name = min(stronger)
        yield (
            f"the best model is no better than {safe(name)} ({ours:.3f} against {value:.3f} bits per byte on the test "
            "split)"
        )


def _beaten_by_smaller(facts: RunFacts) -> Iterator[str]:
    best, largest = best_model(facts), _largest(facts)
    if best and largest and largest.trained and best.name != largest.name:
        yield f"{safe(best.name)} beats {safe(largest.name)}, which saw only {largest.trained.step:,} steps"


def _few_tokens(model: ModelFacts) -> Iterator[str]:
    if model.trained is None or not model.trained.tokens:
        return
    ratio = model.trained.tokens / model.trained.parameters
    if ratio < ENOUGH_DATA / 4:
        yield (
            f"{safe(model.name)} saw {ratio:.2g} tokens per parameter, and about {ENOUGH_DATA} is the best use of "
            "compute (Hoffmann et al. 2022)"
        )


def _room_for_larger(facts: RunFacts) -> Iterator[str]:
    best, device, plan = best_model(facts), facts.of(DEVICE), facts.of(PLANNED)
    if best is None or best.trained is None or device is None or plan is None:
        return
    total, used = device.memory_bytes, best.trained.peak_memory_bytes
    measured, parameters = facts.of(MEASURED), best.trained.parameters
    speeds = measured.models.items() if measured else ()
    smaller = {name for name, speed in speeds if speed.parameters <= parameters}  # what was not measured is larger
    # For want of time, not of text, memory or disk: then flows.planning.planner says what the model would reach.
    feasible = [row.name for row in plan.left_out if "bits per byte" in row.reason and row.name not in smaller]
    if used < total / 4 and feasible:
        yield (
            f"memory is not the limit (the peak was {byte_size(used)} of {byte_size(total)}): with more time the plan "
            f"can add {safe(feasible[0])}"
        )


def _is_past_its_best(facts: RunFacts, model: ModelFacts) -> bool:
    evaluations = dict(_curves(facts)).get(model.name, [])
    return bool(evaluations) and evaluations[-1]["val_loss"] > (1 + PAST_THE_BEST) * _best_of(evaluations)["val_loss"]


def _best_of(evaluations: list[Row]) -> Row:
    return min(evaluations, key=lambda row: float(row["val_loss"]))


def _overfitting(facts: RunFacts) -> Iterator[Finding]:
    """Of the largest model: a smaller one with the same text shows it later."""
    model = _largest(facts)
    evaluations = dict(_curves(facts)).get(model.name, []) if model else []
    if model is None or model.trained is None or not evaluations:
        return
    name, last, best = safe(model.name), evaluations[-1], _best_of(evaluations)
    after = [row for row in evaluations if row["step"] > best["step"]]
    if _is_past_its_best(facts, model) and len(after) > PATIENCE:
        wasted = model.trained.seconds * (1 - after[PATIENCE - 1]["step"] / last["step"])
        yield Finding(
            change="stop early",
            advice="Stop earlier",
            because=(
                f"{name} trained past its best: its validation loss was {best['val_loss']:.4f} at step "
                f"{best['step']:,} and {last['val_loss']:.4f} at the end; the best weights were kept"
            ),
            command=_set(facts, f"training.early_stopping_patience={PATIENCE}"),
            kind=Gain.TIME,
            size=wasted,
            expected=f"{duration(wasted)} of training that made nothing better",
        )
        return
    config = facts.configs.get(model.name, Config())
    decay, needed = config.training.weight_decay, _needed_weight_decay(facts, config, model.trained)
    has_gap = last.get("train_loss") and last["val_loss"] > (1 + OVERFITTING) * last["train_loss"]
    if has_gap and needed:  # of a text that is not learned by heart the gap is what its held-out part costs
        gap = last["val_loss"] - last["train_loss"]
        bits = gap * (last["bits_per_byte"] / last["val_loss"]) if last.get("bits_per_byte") else 0.0
        if needed / ALIKE <= decay <= needed * ALIKE:
            advice, why, command = "", "is what such a training needs; more would do harm (docs/recipe.md)", texts()
        else:
            advice = f", or else {'more' if decay < needed else 'less'} weight decay"
            why = f"is far from the {needed:g} that such a training needs"
            command = _set(facts, f"training.weight_decay={needed:g}")
        yield Finding(
            change="overfits",
            advice=f"Give it more text (--data FOLDER){advice}",
            because=(
                f"{name} overfits: its validation loss is {percent(gap / last['train_loss'])} above its training loss "
                f"({last['val_loss']:.4f} against {last['train_loss']:.4f}); its weight decay, {decay:g}, {why}"
            ),
            command=command,
            kind=Gain.QUALITY,
            size=bits / 2,  # the whole gap never closes
            expected=f"at most {number(bits, 2)} bits per byte, which is the gap" if bits else "at most the gap",
        )


def _needed_weight_decay(facts: RunFacts, config: Config, trained: Trained) -> float:
    """As the plan would give it."""
    text = facts.of(CHARACTERS) or facts.of(BYTE_PAIRS)
    return weight_decay.needed(config, trained.parameters, trained.tokens, _train_tokens(text)) if text else 0.0


def _train_tokens(text: Tokenised) -> int:
    return text.splits["train"].tokens if "train" in text.splits else text.tokens


def _low_share_of_matmul(facts: RunFacts) -> Iterator[Finding]:
    measured = facts.of(MEASURED)
    if measured is None or any(row.symptom == faults.OUT_OF_MEMORY for row in facts.remedies):
        return  # there is no memory for larger ones
    for model in trained_models(facts):
        speed = measured.models.get(model.name)
        if speed is not None and model.trained and speed.share_of_matmul < LOW_SHARE_OF_MATMUL:
            config = facts.configs.get(model.name)
            doubled = 2 * (config.training.batch_size if config else speed.micro_batch)
            saved = model.trained.seconds * (1 - speed.share_of_matmul / LOW_SHARE_OF_MATMUL)
            yield Finding(
                change="larger micro-batches",
                advice="Use larger micro-batches",
                because=(
                    f"{safe(model.name)} used {percent(speed.share_of_matmul)} of the measured matrix-product peak "
                    f"({flops(speed.flops_per_second)}): its products are small"
                ),
                command=_set(facts, f"training.batch_size={doubled}"),
                kind=Gain.TIME,
                size=saved,
                expected=f"at most {duration(saved)} of training, at {percent(LOW_SHARE_OF_MATMUL)} of that peak",
            )


def _plan_missed(facts: RunFacts) -> Iterator[Finding]:
    found = verdict(facts)
    if found is not None and found.level != "learned":  # it needs far more time than was lost
        return
    late = [
        (phase, phase.seconds - phase.planned_seconds)
        for phase in facts.phases
        if phase.planned_seconds
        and phase.seconds
        and phase.seconds > (1 + PLAN_TOLERANCE) * phase.planned_seconds
        and phase.seconds - phase.planned_seconds > NOTICEABLE
    ]
    for phase, over in late:
        yield Finding(
            change="allow for delays",
            advice="Close other programs, or allow for their time",
            because=(
                f"phase {phase.number} {safe(phase.title)} took {duration(phase.seconds)}, planned "
                f"{duration(phase.planned_seconds)} ({percent(over / (phase.planned_seconds or 1))} over)"
            ),
            command=with_budget(facts, 1.25 * facts.budget_seconds),
            kind=Gain.TIME,
            size=over,
            expected=f"{duration(sum(seconds for _, seconds in late))} that training would have had",
        )


def _curves(facts: RunFacts) -> Iterator[tuple[str, list[Row]]]:
    """The name of each trained model with its evaluations, where there are enough of them."""
    for model in trained_models(facts):
        evaluations = [row for row in read_metrics(Path(model.folder))[1] if row.get("val_loss") is not None]
        if len(evaluations) >= LEAST_EVALUATIONS:
            yield model.name, evaluations


def _set(facts: RunFacts, *settings: str) -> str:
    command = facts.command
    for setting in settings:
        command = with_option(command, "--set", setting)
    return command


RULES = (_failures, _more_time, _overfitting, _settings_from_remedies, _low_share_of_matmul, _plan_missed)
