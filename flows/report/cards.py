"""The card of each model of a run: the same bytes in its folder, next to the report, and with its export."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from flows.context.paths import Paths
from flows.ledger.facts import BASELINES, BYTE_PAIRS, CHARACTERS, CLEANED, EVALUATED, FETCHED, SAMPLES, Trained
from flows.report.commands import shareable
from flows.report.facts import RunFacts
from flows.supervision.model_files import ModelFiles
from nanogpt import durable
from nanogpt.config import token_folder
from nanogpt.export import card
from nanogpt.export.card_facts import LearnedText, ModelCard, Sample
from nanogpt.export.front_matter import CARD

CODE = (  # on which the text of a card depends
    "flows/report/cards.py",
    "flows/report/commands.py",
    "flows/report/facts.py",
    "flows/supervision/model_files.py",
    "nanogpt/training/record/metrics.py",
    "nanogpt/export/card.py",
    "nanogpt/export/card_facts.py",
    "nanogpt/export/front_matter.py",
    "nanogpt/evaluation/verdict.py",
    "nanogpt/weights/published_settings.py",
    "nanogpt/sources/**",
    "nanogpt/markdown.py",
)
LEAST_TEMPERATURE = 0.6  # of the sample that is shown: at lower ones a model repeats itself


def write_all(facts: RunFacts, paths: Paths) -> list[Path]:
    """Write the card of every trained model next to the report; returns the files."""
    return [file for model in facts.models for file in write(of_run(facts, model.name), in_reports(model.name, paths))]


def copy_to_models(names: Iterable[str], paths: Paths) -> list[Path]:
    """Put the cards next to the report into the models' folders, where there is another: a training leaves one that
    knows less. No step calls that copy its output, for a training that runs again would have damaged the export's.
    Returns the files that were written."""
    written = []
    for name in names:
        whole, copy = in_reports(name, paths), paths.model(name) / CARD
        if whole.is_file() and copy.parent.is_dir() and not _same(whole, copy):
            durable.unblock(copy, links=True)
            durable.write_bytes(copy, durable.read_bytes(whole))
            written.append(copy)
    return written


def _same(one: Path, other: Path) -> bool:
    try:
        return durable.read_bytes(one) == durable.read_bytes(other)
    except OSError:
        return False


def in_reports(name: str, paths: Paths) -> Path:
    """Where the card of a model lies next to the report."""
    return paths.reports / f"model_card-{name}.md"


def write(described: ModelCard | None, *files: Path) -> list[Path]:
    """Write a card to each of `files`; returns those that were written."""
    if described is None:
        return []
    text = card.text(described)
    for file in files:
        durable.write_text(file, text)
    return list(files)


def of_run(facts: RunFacts, name: str) -> ModelCard | None:
    """All that a run knows of a model; None where it has not been trained, or its configuration is gone."""
    trained = facts.model(name).trained
    described = of_training(facts, name, trained) if trained else None
    if described is None:
        return None
    evaluated, baselines = facts.of(EVALUATED), facts.of(BASELINES)
    return replace(
        described,
        evaluation=evaluated.models.get(name) if evaluated else None,
        baselines=baselines.bits_per_byte if baselines else {},
        sample=_sample(facts, name),
    )


def of_training(facts: RunFacts, name: str, trained: Trained) -> ModelCard | None:
    """What is known when a model has just been trained: what the run has judged is of its weights before that."""
    config = facts.configs.get(name)
    if config is None:
        return None
    fetched, cleaned = facts.of(FETCHED), facts.of(CLEANED)
    tokens = next((found for found in map(facts.of, (CHARACTERS, BYTE_PAIRS))
                   if found and Path(found.folder).name == token_folder(config.data.tokenizer)), None)  # fmt: skip
    shape = {"vocab_size": tokens.vocab_size if tokens else config.model.vocab_size, "block_size": trained.context}
    return ModelCard(
        name=name,
        parameters=trained.parameters,
        shape=config.model.model_copy(update=shape),
        tokenizer=config.data.tokenizer,
        weights=ModelFiles(Path(facts.model(name).folder)).best_weights(),
        text=LearnedText.of(
            fetched.source if fetched else config.data.source,
            cleaned.sha256 if cleaned else None,
            tokens.splits if tokens else None,
        ),
        config=config,
        outcome=trained,
        command=shareable(facts.command),
    )


def _sample(facts: RunFacts, name: str) -> Sample | None:
    samples = facts.of(SAMPLES)
    shown = samples.samples if samples and samples.model == name else []
    return next((Sample(row.temperature, row.text, row.prompt) for row in shown
                 if row.temperature >= LEAST_TEMPERATURE), None)  # fmt: skip
