"""The card of a model that lies in a folder: its own where it has one, else what the folder knows of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from nanogpt import durable
from nanogpt.config import load_config
from nanogpt.export import card, front_matter
from nanogpt.export.card_facts import Adapters, Base, LearnedText, ModelCard, Sample
from nanogpt.faults import UserError
from nanogpt.records import from_json
from nanogpt.results.training import TrainingData
from nanogpt.spelling import spelled
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.training.record.metrics import read_outcome, read_rows
from nanogpt.weights import checkpoint, trained_folder
from nanogpt.weights.folders import source_at
from nanogpt.weights.source import Source
from nanogpt.weights.trained_folder import TrainedFolder

USUAL_TEMPERATURE = 0.8
WORD = "The"


def text_for(source: Source, out: Path) -> str | None:
    """The card for an export of `source` to `out`; None where `out` has a README.md in a person's own words."""
    if front_matter.is_own_words(out):
        return None
    return own_text(source) or card.text(described(source))


def write_for_training(folder: Path) -> None:
    """Write the card of a training into its folder, unless a person has written a README.md there, or there are no
    weights yet. Raises OSError."""
    if not front_matter.is_own_words(folder) and (folder / trained_folder.BEST).is_dir():
        durable.write_text(folder / front_matter.CARD, card.text(described(TrainedFolder(folder))))


def own_text(source: Source) -> str | None:
    """The card that lies with `source`; None without one, and for one of other weights."""
    place = source.model_folder if isinstance(source, TrainedFolder) else source.path
    mark = front_matter.read_mark(place)
    if mark is None or (isinstance(source, TrainedFolder) and mark.weights != weights_digest(source)):
        return None
    return durable.read_text(place / front_matter.CARD)


def described(source: Source) -> ModelCard:
    """What `source` and the files next to it know. Raises UserError or CorruptFileError for a damaged model."""
    tokenizer = source.tokenizer()
    plain = ModelCard(
        name=name_at(source.path),
        parameters=source.parameters,
        shape=source.config,
        tokenizer=tokenizer.name if tokenizer else "none",
        opening=opening(tokenizer),
    )
    return _of_training(plain, source) if isinstance(source, TrainedFolder) else plain


def of_adapters(model_folder: Path) -> ModelCard:
    """The card of the adapters that were trained in a folder."""
    return replace(described(TrainedFolder(model_folder)), kind="adapters")


def of_merged(base: Path, adapters: Path, rank: int, alpha: float) -> ModelCard:
    """The card of the model in `base` with the adapters in `adapters` added to it."""
    mark = front_matter.read_mark(adapters)
    return replace(
        described(source_at(base)),
        name=mark.model if mark else name_at(adapters),
        kind="merged",
        text=mark.learned_text() if mark else None,
        base=base_at(base),
        adapters=Adapters(rank, alpha),
        config=None,
        outcome=None,
        sample=None,
        weights=None,
    )


def base_at(path: Path | str) -> Base:
    """The model at `path` as the base of another; where it is gone, its name is what is left."""
    try:
        source = source_at(path)
        if isinstance(source, TrainedFolder):
            config = load_config(source.model_folder / trained_folder.CONFIG)
            return Base(config.name, _text_of(source.model_folder, config.data.source))
        mark = front_matter.read_mark(source.path)
    except UserError:
        mark = None
    return mark.as_base() if mark else Base(name_at(Path(path)))


def weights_digest(source: TrainedFolder) -> str:
    """sha256 of the file of weights, as it was written. Raises CorruptFileError."""
    return str(checkpoint.read_manifest(source.checkpoint)["files"][checkpoint.WEIGHTS]["sha256"])


def _of_training(plain: ModelCard, source: TrainedFolder) -> ModelCard:
    folder = source.model_folder
    config = load_config(folder / trained_folder.CONFIG)
    training = config.training
    return replace(
        plain,
        name=config.name,
        weights=weights_digest(source),
        checkpoint=source.checkpoint.name,
        text=_text_of(folder, config.data.source),
        base=base_at(training.init_from) if training.init_from else None,
        adapters=Adapters(training.lora_rank, training.lora_alpha) if training.lora_rank else None,
        config=config,
        outcome=read_outcome(folder),
        sample=_newest_sample(folder),
    )


def _text_of(model_folder: Path, source: str) -> LearnedText:
    note, _ = durable.read_note(model_folder / "data.json")
    try:
        data = from_json(TrainingData, note)
    except ValueError:  # missing, torn or of another kind
        return LearnedText.of(source)
    return LearnedText.of(source, data.text_sha256, data.splits)


def _newest_sample(folder: Path) -> Sample | None:
    """Of the samples that were written last, the one whose temperature is most like a person's choice."""
    try:
        samples = [from_json(Sample, row) for row in read_rows(folder / "samples.jsonl")]
    except (OSError, ValueError):
        return None
    newest = [sample for sample in samples if sample.step == samples[-1].step]
    return min(newest, key=lambda sample: abs(sample.temperature - USUAL_TEMPERATURE), default=None)


def opening(tokenizer: Tokenizer | None, words: bool = False) -> str:
    """What begins a text in an example: a new line, or where the vocabulary has none, its first token.

    `words`: a word of the vocabulary's, where it is known to have one; a shell's command shows it better.
    """
    if words and tokenizer is not None and tokenizer.reads(WORD) and not tokenizer.unknown_in(WORD):
        return WORD
    if tokenizer is None or (tokenizer.reads("\n") and not tokenizer.unknown_in("\n")):
        return "\n"
    return tokenizer.decode([0])


def name_at(path: Path) -> str:
    """What a model is called that lies at `path`."""
    return spelled(os.path.basename(os.path.abspath(os.path.expanduser(path)))) or "model"
