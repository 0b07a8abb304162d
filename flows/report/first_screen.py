"""The first screen of a report: five questions of a person who never saw the project, answered from facts.

Did it work? How good is it? What did it cost? What went wrong? What should I do next?
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.ledger.facts import BASELINES, CLEANED, DEVICE, EVALUATED, EXPORTED, FETCHED, SAMPLES, SYSTEM, TESTS, Remedy
from flows.report import commands
from flows.report.facts import RunFacts
from flows.report.judgement import best_model, criteria, not_reached, reached
from flows.report.markdown import code, safe, sentence
from flows.report.recommendations import recommendations
from flows.report.verdict import in_words, verdict
from flows.runner.step_runner import StepRecord
from nanogpt.evaluation.known_results import NANOGPT_CPU_RECIPE, NANOGPT_GPU_RECIPE
from nanogpt.sources import catalogue
from nanogpt.units import byte_size, chosen_duration, count, duration, number, percent

LENGTH_OF_SAMPLE = 110  # characters
MOST_FAULTS = 3  # that are named one by one
JOULES_PER_WATT_HOUR = 3600.0
COUNTING = "counting what follows each four letters"  # a 5-gram, for people who do not know the word
SIMPLE = {"unigram": "counting letters", "xz (after train)": "the compressor xz", "5-gram": COUNTING}


@dataclass(frozen=True)
class Answer:
    """`verdict` is a few words, `lines` what it rests on. All are Markdown."""

    question: str
    verdict: str
    lines: list[str]


def answers(facts: RunFacts) -> list[Answer]:
    """The five, in the order in which a person asks them."""
    return [
        Answer("Did it work?", _did_it_work(facts), [*_what_was_made(facts), *_goals(facts)]),
        Answer("How good is it?", _how_good(facts), [*_known_models(facts), *_its_writing(facts)]),
        Answer("What did it cost?", _time_and_energy(facts), [*_spent_on(facts), _energy(facts)]),
        Answer("What went wrong?", _what_went_wrong(facts), [*_failures(facts), *_faults(facts), *_warnings(facts)]),
        Answer("What next?", *_what_next(facts)),
    ]


def _did_it_work(facts: RunFacts) -> str:
    found = verdict(facts)
    if best_model(facts) is None:
        return "No: no model was trained."
    if found is not None and not found.has_learned:
        return "No: a model was trained, and it has not learned."
    has_failed = any(phase.status in ("failed", "blocked") for phase in facts.phases)
    if has_failed or any(goal.met is False for goal in criteria(facts)):
        return "Partly."
    return "Yes."


def _what_was_made(facts: RunFacts) -> Iterator[str]:
    best, fetched, exported = best_model(facts), facts.of(FETCHED), facts.of(EXPORTED)
    if best is None or best.trained is None:
        return
    known = catalogue.description(fetched.source) if fetched else None
    source = f" on {safe(fetched.source)}{f' ({safe(known)})' if known else ''}" if fetched else ""
    folder = f"; it is in {code(exported.folder)}" if exported else ""
    size = count(best.trained.parameters)
    yield f"A language model, {safe(best.name)} ({size} parameters), was trained{source}{folder}."


def _goals(facts: RunFacts) -> Iterator[str]:
    judged = criteria(facts)
    text = f"{reached(judged)} goals were reached"
    for words, goals in not_reached(judged).items():
        text += f"; {words}: {_listed([goal.name for goal in goals])}"
        text += f" ({safe(goals[0].evidence)})" if words == "not known" and len(goals) == 1 else ""
    yield f"{text}."


def _how_good(facts: RunFacts) -> str:
    found, samples = verdict(facts), facts.of(SAMPLES)
    if best_model(facts) is None:
        return "There is no model."
    if found is None:
        return "It was not compared with other models."
    if found.level == "not learned":
        return "It has not learned: counting letters predicts better."
    if found.level == "undertrained":
        return f"Weak: {COUNTING} predicts as well or better."
    if samples is None:
        return "It predicts better than simple models do."
    words = f"{percent(samples.coherence.figures.known_words)} of its words are real"
    looks = "looks like its text" if samples.coherence.coherent else "does not look like its text yet"
    return f"It predicts better than simple models do; what it writes {looks} ({words})."


def _known_models(facts: RunFacts) -> Iterator[str]:
    """The best model in its place among known ones, on the test split and on nanoGPT's own measure."""
    evaluated, baselines, best = facts.of(EVALUATED), facts.of(BASELINES), best_model(facts)
    figures = evaluated.models.get(best.name) if evaluated and best else None
    if best is None or figures is None:
        return
    bits, loss = figures.test.bits_per_byte, figures.nanogpt_loss
    simple = baselines.bits_per_byte if baselines else {}
    known = [(value, SIMPLE[name]) for name, value in simple.items() if name in SIMPLE]
    unsure = f". {safe(best.name)} is {in_words(facts, bits)}" if facts.of(CLEANED) else ""
    yield f"Bits per byte on text that it never saw (fewer is better): {_scale(known, bits, best.name)}{unsure}."
    if loss is not None and (fetched := facts.of(FETCHED)) and fetched.source == "tiny_shakespeare":
        recipes = [
            (NANOGPT_CPU_RECIPE.loss, "nanoGPT's recipe for CPUs"),
            (NANOGPT_GPU_RECIPE.loss, "nanoGPT's recipe for one A100 GPU"),
        ]
        measure = "Loss by the measure of nanoGPT, a well-known program for small GPTs (lower is better)"
        yield f"{measure}: {_scale(recipes, loss, best.name)}."


def _scale(known: Sequence[tuple[float, str]], ours: float, name: str) -> str:
    """The worst first: `a 5-gram 2.41, **tiny 2.24**`."""
    rows = [(value, f"{words} {number(value, 2)}") for value, words in known]
    rows.append((ours, f"**{safe(name)} {number(ours, 2)}**"))
    return ", ".join(words for _, words in sorted(rows, key=lambda row: -row[0]))


def _its_writing(facts: RunFacts) -> Iterator[str]:
    samples = facts.of(SAMPLES)
    if samples is None or not samples.samples:
        return
    text = samples.samples[len(samples.samples) // 2].text
    begun, _, rest = text.partition("\n")  # the first line may begin within a word
    lines = [line.strip() for line in (rest if rest.strip() else begun).splitlines() if line.strip()]
    yield f"It writes: *{safe(_cut(' / '.join(lines)))}*" if lines else "It writes nothing but blanks."


def _cut(text: str) -> str:
    return text if len(text) <= LENGTH_OF_SAMPLE else text[:LENGTH_OF_SAMPLE].rsplit(" ", 1)[0] + " …"


def _time_and_energy(facts: RunFacts) -> str:
    total = facts.energy.total
    energy = "" if total is None else f" and {_watt_hours(total)}"
    return f"{duration(facts.spent_seconds)}{energy}, of a budget of {chosen_duration(facts.budget_seconds)}."


def _spent_on(facts: RunFacts) -> Iterator[str]:
    device, system, best = facts.of(DEVICE), facts.of(SYSTEM), best_model(facts)
    cores = f", {system.cores} cores" if system and device and device.device == "cpu" else ""
    where = f" on {safe(device.name)} ({safe(device.device)}{cores})" if device else ""
    if best and best.trained:
        time, memory = duration(best.trained.seconds), byte_size(best.trained.peak_memory_bytes)
        yield f"{time} of it trained {safe(best.name)}{where}, with at most {memory} of memory."


def _energy(facts: RunFacts) -> str:
    energy = facts.energy
    if not energy.joules:
        return f"Energy: not known{f', {safe(energy.unknown)}' if energy.unknown else ''}."
    parts = ", ".join(f"{safe(name)} {_watt_hours(joules)}" for name, joules in energy.joules.items())
    return f"Energy: {parts}, counted over {duration(energy.seconds)}, other programs on the machine included."


def _watt_hours(joules: float) -> str:
    return f"{number(joules / JOULES_PER_WATT_HOUR, 2)} Wh"


def _what_went_wrong(facts: RunFacts) -> str:
    failed, mended = sum(phase.status == "failed" for phase in facts.phases), len(facts.remedies)
    if failed:
        return "One phase failed." if failed == 1 else f"{failed} phases failed."
    if without := len(_failed_steps(facts)):
        steps = "One step" if without == 1 else f"{without} steps"
        return f"{steps} failed; the run went on without {'it' if without == 1 else 'them'}."
    if mended:
        return "One fault, which was repaired." if mended == 1 else f"{mended} faults, which were repaired."
    if missed := sum(goal.met is False for goal in criteria(facts)):
        return f"No phase failed, but {'one goal was' if missed == 1 else f'{missed} goals were'} not reached."
    return "Nothing: no phase failed, and no remedy was needed."


def _failed_steps(facts: RunFacts) -> list[StepRecord]:
    """Those whose phase came to a good end without them."""
    ended = [phase for phase in facts.phases if phase.status not in ("failed", "blocked")]
    return [step for phase in ended for step in phase.steps if step.state == "failed"]


def _failures(facts: RunFacts) -> Iterator[str]:
    for phase in facts.phases:
        if phase.status == "failed":
            yield f"Phase {phase.number} {phase.title} failed: {sentence(phase.cause)}"
    for step in _failed_steps(facts):
        yield f"{safe(step.title)}: failed: {sentence(step.reason)}"
    blocked = [f"{phase.number} {phase.title}" for phase in facts.phases if phase.status == "blocked"]
    if blocked:
        yield f"Not run because of that: {_listed(blocked)}."


def _faults(facts: RunFacts) -> Iterator[str]:
    alike: dict[tuple[str, str, str], list[Remedy]] = {}
    for row in facts.remedies:
        alike.setdefault((row.symptom, row.step, row.remedy), []).append(row)
    for (symptom, step, remedy), rows in list(alike.items())[:MOST_FAULTS]:
        seconds, steps = sum(row.cost_seconds for row in rows), sum(row.steps_lost for row in rows)
        lost = f" ({duration(seconds)}, {number(steps)} steps)" if seconds else ""
        times = f", {len(rows)} times" if len(rows) > 1 else ""
        yield f"{safe(symptom.replace('_', ' ').capitalize())} in {safe(step)}{times}: {sentence(remedy + lost)}"
    if more := sum(len(rows) for rows in list(alike.values())[MOST_FAULTS:]):
        yield f"{more} more are listed in “What went wrong and was repaired”."


def _warnings(facts: RunFacts) -> Iterator[str]:
    """What did not stop the run, and a person should know."""
    fetched, device = facts.of(FETCHED), facts.of(DEVICE)
    if device and device.warning:
        yield sentence(device.warning)
    if fetched and fetched.fallback_reason:
        yield f"Another text was taken: {sentence(fetched.fallback_reason)}"
    if (tests := facts.of(TESTS)) and tests.timed_out:
        had = duration(tests.seconds)
        yield f"The project's own tests had only {had} and did not finish; this says nothing about the model."
    if not any(phase.status == "failed" for phase in facts.phases):
        for goal in criteria(facts):
            if goal.met is False:
                yield f"Not reached: {goal.name}. {sentence(goal.evidence)}"


def _what_next(facts: RunFacts) -> tuple[str, list[str]]:
    exported, found, advice = facts.of(EXPORTED), verdict(facts), recommendations(facts)
    use = [] if exported is None or (found and not found.has_learned) else _uses(facts, exported.folder)
    improve = [
        f"{safe(first.advice)}: {code(first.command)} (expected gain: {safe(first.expected)})" for first in advice[:1]
    ]
    if any(phase.status == "failed" for phase in facts.phases):
        has_not_learned = found is not None and not found.has_learned
        return "Give it more time." if has_not_learned else "Fix it, and continue.", [*improve, *use]
    if use:
        return "Use it, or make it better." if improve else "Use it: nothing is pressing.", [*use, *improve]
    return ("Make it better.", improve) if improve else ("Nothing is pressing.", [])


def _uses(facts: RunFacts, folder: str) -> list[str]:
    return [f"Talk to it: {code(commands.chat(Path(facts.workspace) / folder))}"]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(str(safe(name)) for name in names)
