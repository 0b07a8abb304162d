"""What a model card is written from: records of what is known of a model. A person's texts are names here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nanogpt import markdown
from nanogpt.config import Config, ModelConfig
from nanogpt.evaluation import verdict
from nanogpt.evaluation.verdict import Verdict
from nanogpt.results.evaluation import ModelFigures
from nanogpt.results.text import TokenSplit
from nanogpt.results.training import TrainingOutcome
from nanogpt.sources import catalogue, own

Kind = Literal["model", "adapters", "merged"]


@dataclass(frozen=True)
class LearnedText:
    """A text by its name. `sha256` is of the cleaned text; None for what was not recorded."""

    name: str
    sha256: str | None = None
    splits: Mapping[str, TokenSplit] = field(default_factory=dict)
    licence: str | None = None
    language: str | None = None  # ISO 639-1
    address: str | None = None  # public

    @classmethod
    def of(cls, source: str, sha256: str | None = None, splits: Mapping[str, TokenSplit] | None = None) -> LearnedText:
        """The text that a configuration calls `source`. What the catalogue says of a file counts for its bytes alone;
        of a larger set each run learns as much as it asked for."""
        entry = catalogue.CATALOGUE.get(source)
        if entry is not None and entry.sha256 is not None and sha256 != entry.sha256:
            return cls(catalogue.UNKNOWN, sha256, splits or {})
        return cls(
            own.name_of(source),
            sha256,
            splits or {},
            catalogue.licence(source),
            catalogue.language(source),
            entry.page if entry else None,
        )

    @property
    def shown(self) -> str:
        """Its name as Markdown."""
        if self.name == catalogue.EMBEDDED:
            return "Python's own documentation"
        return "a text of unknown name" if self.name == catalogue.UNKNOWN else markdown.code(self.name)


@dataclass(frozen=True)
class Base:
    """The model that another was tuned from."""

    name: str
    text: LearnedText | None = None

    @property
    def shown(self) -> str:
        return markdown.code(self.name)


@dataclass(frozen=True)
class Adapters:
    rank: int
    alpha: float


@dataclass(frozen=True)
class Sample:
    """What the model wrote after `prompt`, in its training at a step or afterwards."""

    temperature: float
    text: str
    prompt: str = ""
    step: int | None = None


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model. Of the rest the card says that it is not.

    `shape` has the vocabulary and the context that was trained; `weights` is the sha256 of the file of weights that
    the card was written for. `opening` begins the text in the example of use; `command` makes the model again.
    """

    name: str
    parameters: int
    shape: ModelConfig
    tokenizer: str
    kind: Kind = "model"
    weights: str | None = None
    checkpoint: str = "best"  # which weights of its training
    text: LearnedText | None = None
    base: Base | None = None
    adapters: Adapters | None = None
    config: Config | None = None  # of its training
    outcome: TrainingOutcome | None = None
    evaluation: ModelFigures | None = None
    baselines: Mapping[str, float] = field(default_factory=dict)  # bits per byte of the test split
    sample: Sample | None = None
    opening: str = "\n"
    command: str | None = None

    def verdict(self) -> Verdict | None:
        """None while it was not judged and compared with the baselines."""
        if self.evaluation is None:
            return None
        return verdict.compare(self.name, self.evaluation.test.bits_per_byte, self.baselines)
