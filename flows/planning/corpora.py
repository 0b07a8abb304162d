"""Which text a run learns from: what could be had, and what the computing power and the budget can use of it.

Pure arithmetic on what was found and measured: the same figures give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flows.ledger.facts import LeftOut, PlannedText, SurveyedText, TextTokens
from flows.planning.forecast import Corpus, law_of
from flows.planning.planner import Plan, tokenizer_for
from nanogpt.config import SMALL_TEXT, DataConfig
from nanogpt.tokenizers.vocabulary import likely_bytes_per_token
from nanogpt.units import count, duration, flops

Serves = Literal["minutes", "hours", "a night"]  # as nanogpt.sources.catalogue says of a text
FLOP_FOR_PARAMETER = 120.0  # a model of N parameters is best for 120 N^2 FLOP: 20 tokens each (Hoffmann et al. 2022)
OUTGROWS_PLAYS = 3e6  # parameters; beyond, a 5 M model has seen the megabyte 30 times before its time is over
# Below this a model learns to write from TinyStories (Eldan and Li 2023: sentences from 1 M on), not from web pages.
LEARNS_FROM_THE_WEB = 15e6
ORDER: dict[Serves, tuple[str, ...]] = {  # the best first; a text that is not named comes last
    "minutes": ("tiny_shakespeare", "embedded", "wikitext_2"),
    "hours": ("tinystories", "wikitext_103", "openwebtext", "fineweb_edu", "wikitext_2", "embedded"),
    "a night": ("fineweb_edu", "openwebtext", "wikitext_103", "tinystories", "wikitext_2", "embedded"),
}
GOOD_FOR: dict[Serves, str] = {
    "minutes": "a megabyte of plays is as much as it can use",
    "hours": "it learns to write from stories in simple words, and needs many of them",
    "a night": "it is large enough to learn from web pages",
}
UNKNOWN_ALPHABET = 100  # characters, to size models with; such a text is learned in byte pairs
MOST_HELD_OUT = 4_000_000  # bytes of a text that is prepared in pieces, for each split
SPARE = 1.25  # times the bytes that a plan reads: filters take some, and tokens may be longer than they are taken for
PORTION = 10_000_000  # bytes: a plan that is made again, a little longer, reads the same text
DISK_SHARE = 0.25  # of what is free, for a text in all its forms
FORMS = 2.0  # times its bytes: as it came, as kept text and as ids
TIME_SHARE = 0.1  # of the budget, for fetching and preparing a text
# Tokens of a BPE, up to a size of the best model: its tables stay below a third of a model of that size.
VOCABULARIES = ((6e6, 2048), (LEARNS_FROM_THE_WEB, 4096), (60e6, 8192), (300e6, 16384), (math.inf, 32768))


@dataclass(frozen=True)
class Means:
    """What a run has for its text and its training. `flops_per_second`: of the fastest model that was measured;
    `text_rate`: bytes of text that are fetched and prepared in a second."""

    flops_per_second: float
    training_seconds: float
    budget: float
    disk_free: int
    text_rate: float

    @property
    def best_parameters(self) -> float:
        """Of the model that so much computing trains best, with as much text as it wants."""
        return math.sqrt(self.flops_per_second * self.training_seconds / FLOP_FOR_PARAMETER)

    @property
    def serves(self) -> Serves:
        """The kind of text, named by the time that it serves on a laptop."""
        best = self.best_parameters
        return "minutes" if best < OUTGROWS_PLAYS else "hours" if best < LEARNS_FROM_THE_WEB else "a night"

    @property
    def most_text(self) -> int:
        """Bytes that there is disk and time for."""
        return max(SMALL_TEXT, int(min(DISK_SHARE * self.disk_free / FORMS, TIME_SHARE * self.budget * self.text_rate)))


@dataclass(frozen=True)
class TextChoice:
    """A text with the tokens that it is learned in. `bytes`: as much of it as there are means for."""

    text: SurveyedText
    bytes: int
    tokens: TextTokens
    why: str
    not_chosen: list[LeftOut]

    @property
    def alphabet_size(self) -> int:
        """Characters to size a model with."""
        return self.text.alphabet_size or UNKNOWN_ALPHABET

    @property
    def settings(self) -> dict[str, object]:
        """Of a model that learns from it."""
        return {
            "data.source": self.text.name,
            "data.tokenizer": self.tokens.tokenizer,
            "data.bpe_vocab_size": self.tokens.vocabulary,
        }

    def corpus(self, data: DataConfig) -> Corpus:
        """What a plan may read of it."""
        text = self.text
        return Corpus(
            self.bytes,
            int(self.bytes / text.bytes_per_character),
            text.alphabet_size,
            data.val_fraction,
            data.test_fraction,
            likely_bytes_per_token(self.tokens.tokenizer, self.tokens.vocabulary, text.bytes_per_character),
            MOST_HELD_OUT if self.text.in_pieces else None,
            law_of(text.name, text.in_pieces),
        )

    def planned(self) -> PlannedText:
        """For a plan that reads `bytes` of it: only so many are fetched and prepared."""
        return PlannedText(
            tokens=self.tokens,
            where=self.text.where,
            why=self.why,
            bytes=self.text.bytes,
            wanted_bytes=self.bytes,
            in_pieces=self.text.in_pieces,
            not_chosen=self.not_chosen,
        )

    def wanted_bytes(self, tokens: int, data: DataConfig) -> int:
        """Of the text, for `tokens` to train on; a small text is taken whole."""
        if not self.text.in_pieces:
            return self.text.bytes
        read = tokens * self.corpus(data).bytes_per_token
        with_held_out = min(read / (1 - data.val_fraction - data.test_fraction), read + 2 * MOST_HELD_OUT)
        return min(self.bytes, max(1, math.ceil(SPARE * with_held_out / PORTION)) * PORTION)


def choose(
    surveyed: Sequence[SurveyedText], means: Means, data: DataConfig, decided: TextTokens | None = None
) -> TextChoice:
    """The best text for so much computing, of those that can be had; a text that stands alone is the one that a person
    named. `decided`: a choice that stays as it was made. Raises ValueError where no text can be had."""
    place = {name: number for number, name in enumerate(ORDER[means.serves])}
    ranked = sorted(surveyed, key=lambda text: (place.get(text.name, len(place)), -text.bytes))
    names = [text.name for text in ranked if not text.obstacle]
    if not names:
        raise ValueError("; ".join(f"{text.name}: {text.obstacle}" for text in surveyed) or "no text is known")
    name = decided.name if decided and decided.name in names else names[0]
    found = next(text for text in ranked if text.name == name)
    text = _first_of(found) if found.first_bytes and means.serves == "minutes" else found
    tokens = decided if decided and decided.name == name else _tokens_for(text, means, data)
    rest = [other for other in ranked if other != found]
    others = [LeftOut(other.name, other.obstacle or f"{name} suits it better") for other in rest]
    why = _why(text, means, ranked[: ranked.index(found)]) if rest else "the text that was asked for"
    return TextChoice(text, min(text.bytes, means.most_text), tokens, why, others)


def _first_of(text: SurveyedText) -> SurveyedText:
    return replace(text, bytes=text.first_bytes, in_pieces=False)


def worth_asking_for(most: Means) -> list[str]:
    """The texts that could be chosen with `most` means at best, without what would have to be asked for in vain."""
    kinds = list(ORDER)
    orders = [ORDER[kind] for kind in kinds[: kinds.index(most.serves) + 1]]
    names = list(dict.fromkeys(name for order in orders for name in order))
    return names if most.serves != "minutes" else ["tiny_shakespeare", "embedded"]


def plan_with(choice: TextChoice, data: DataConfig, make: Callable[[TextChoice], Plan]) -> Plan:
    """The plan that `make` makes of as many bytes of the text as it reads, and no more.

    The more bytes, the longer the text takes, and the less is left for training to read them.
    """
    part = replace(choice, bytes=choice.wanted_bytes(0, data))
    plan = make(part)
    while (wanted := choice.wanted_bytes(plan.most_tokens, data)) > part.bytes:
        part = replace(choice, bytes=wanted)
        plan = make(part)
    return replace(plan, text=part.planned())


def _why(text: SurveyedText, means: Means, better: Sequence[SurveyedText]) -> str:
    power = (
        f"in {duration(means.training_seconds)} of training at {flops(means.flops_per_second)} a model of about "
        f"{count(round(means.best_parameters, -3))} parameters learns most, and {GOOD_FOR[means.serves]}"
    )
    missed: dict[str, list[str]] = {}
    for other in better:
        if other.obstacle:
            missed.setdefault(other.obstacle, []).append(other.name)
    obstacles = [f"{' and '.join(names)} cannot be had ({obstacle})" for obstacle, names in missed.items()]
    return "; ".join([power, *obstacles, *([f"{text.name} is the next best"] if missed else [])])


def _tokens_for(text: SurveyedText, means: Means, data: DataConfig) -> TextTokens:
    """What a person set; else characters for a small text, and byte pairs for a large one, the more of them the larger
    the model."""
    tokenizer = tokenizer_for(data.tokenizer, text.bytes, 0 if text.in_pieces else text.alphabet_size)
    if tokenizer != "bpe" or "bpe_vocab_size" in data.model_fields_set or text.bytes <= SMALL_TEXT:
        return TextTokens(text.name, tokenizer, data.bpe_vocab_size)
    vocabulary = next(size for most, size in VOCABULARIES if means.best_parameters < most)
    return TextTokens(text.name, tokenizer, vocabulary)
