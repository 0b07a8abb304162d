"""The YAML at the top of a model card: what huggingface.co reads, and the mark by which a card is known as ours."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nanogpt import durable, markdown
from nanogpt.export.card_facts import Base, LearnedText, ModelCard
from nanogpt.records import from_json, to_json
from nanogpt.results.evaluation import ModelFigures
from nanogpt.sources import catalogue
from nanogpt.weights.published_settings import architecture

CARD = "README.md"
KEY, TAG = "nanogpt", "nanogpt-autopilot"
UNKNOWN_LICENCE = "unknown"
FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
PLAIN = re.compile("[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Mark:
    """What a card says to our own programs: the model, its text and its base by name. `weights` as in ModelCard."""

    model: str
    weights: str | None = None
    text: str | None = None
    text_sha256: str | None = None
    base: str | None = None
    base_text: str | None = None
    base_text_sha256: str | None = None

    @classmethod
    def of(cls, card: ModelCard) -> Mark:
        text, base = card.text, card.base
        before = base.text if base else None
        return cls(
            model=card.name,
            weights=card.weights,
            text=text.name if text else None,
            text_sha256=text.sha256 if text else None,
            base=base.name if base else None,
            base_text=before.name if before else None,
            base_text_sha256=before.sha256 if before else None,
        )

    def as_base(self) -> Base:
        """The model, where another is tuned from it."""
        return Base(self.model, self.learned_text())

    def learned_text(self) -> LearnedText | None:
        return LearnedText.of(self.text, self.text_sha256) if self.text is not None else None


def written(card: ModelCard) -> str:
    """The front matter, with the keys of https://github.com/huggingface/hub-docs/blob/main/modelcard.md.

    Without `base_model` and `datasets`: huggingface.co takes names of its own there, and ours are local ones.
    """
    language = card.text.language if card.text else None
    opens = architecture(card.shape) is not None
    metadata: dict[str, Any] = {
        **({"language": [language]} if language else {}),
        "license": UNKNOWN_LICENCE,
        **({"library_name": "peft" if card.kind == "adapters" else "transformers"} if opens else {}),
        "pipeline_tag": "text-generation",
        "tags": [TAG, *_tags(card)],
    }
    if card.evaluation:
        metadata |= {"metrics": ["perplexity"], "model-index": [_model_index(card, card.evaluation)]}
    metadata[KEY] = to_json(Mark.of(card), sparse=True)
    as_yaml = yaml.dump(metadata, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
    return f"---\n{as_yaml}---"


def with_library(card: str, library: str) -> str:
    """The card `card` with `library` as what opens the model; one without front matter as it is."""
    front = FRONT_MATTER.match(card)
    if front is None:
        return card
    lines = [line for line in front[1].split("\n") if not line.startswith("library_name:")]
    return "\n".join(["---", f"library_name: {library}", *lines, "---", card[front.end() :]])


def read_mark(folder: Path) -> Mark | None:
    """The mark of the card in `folder`; None where it is missing or cannot be read."""
    try:
        return from_json(Mark, _metadata(folder)[KEY])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def is_own_words(folder: Path) -> bool:
    """Whether a README.md in `folder` is a person's, and not a card of this project, older versions included."""
    try:
        metadata = _metadata(folder)
        return KEY not in metadata and TAG not in metadata["tags"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError):
        return True


def has_unknown_licence(folder: Path) -> bool:
    """Whether the card in `folder` leaves the licence of the weights open, as the cards that are written here do."""
    try:
        return bool(_metadata(folder).get("license") == UNKNOWN_LICENCE)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _metadata(folder: Path) -> dict[str, Any]:
    """Raises OSError, and ValueError or LookupError for what is no card."""
    front = FRONT_MATTER.match(durable.read_text(folder / CARD))
    if front is None:
        raise ValueError("it has no front matter")
    try:
        metadata: dict[str, Any] = yaml.safe_load(front[1])
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return metadata


class _Dumper(yaml.SafeDumper):
    """Quotes all text but plain words: what else is text differs between YAML 1.1 and 1.2, and both read a card."""


def _as_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if PLAIN.fullmatch(value) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", markdown.one_line(value), style)


_Dumper.add_representer(str, _as_text)


def _tags(card: ModelCard) -> list[str]:
    if card.kind == "adapters":
        return ["lora"]
    if card.kind == "merged":
        return ["lora", "merge"]
    if card.base:
        return ["fine-tuned"]
    return ["from-scratch", "small-language-model"] if card.config else []


def _model_index(card: ModelCard, evaluation: ModelFigures) -> dict[str, Any]:
    figures = {"perplexity": evaluation.test.perplexity, "bits_per_byte": evaluation.test.bits_per_byte}
    metrics = [{"type": name, "value": round(value, 4)} for name, value in figures.items() if math.isfinite(value)]
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "text", "name": card.text.name if card.text else catalogue.UNKNOWN, "split": "test"},
        "metrics": metrics,
    }
    return {"name": card.name, "results": [result]}
