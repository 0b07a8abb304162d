"""What a model writes greedily, kept in a file, so that a later run shows whether anything has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options, Piece
from nanogpt.records import from_json, to_json
from nanogpt.results.quality import GreedyPiece, GreedySample, GreedySamples

TOKENS, PROMPTS = 64, 8
MOST_TOKENS = 100_000  # of a kept sample: a damaged number would write for ever
SHOWN = 40  # characters of a text where it differs
NEAR_TIE = 1e-3  # nats: kernels that add in another order move a logit by less


@dataclass(frozen=True)
class SampleDifference:
    """Where a text left the kept one: `kept` and `found` begin `place` characters into it. `margin`: nats between the
    two most probable tokens there, when it was kept; None where the kept text has ended."""

    prompt: str
    place: int
    kept: str
    found: str
    margin: float | None

    def __str__(self) -> str:
        tie = ", a near tie" if self.margin is not None and self.margin < NEAR_TIE else ""
        margin = "" if self.margin is None else f"; the kept choice was {self.margin:.2g} nats ahead{tie}"
        return (
            f"after {self.prompt!r}, at character {self.place}: kept {self.kept[:SHOWN]!r}, found "
            f"{self.found[:SHOWN]!r}{margin}"
        )


def write(name: str, digest: str, engine: Engine, prompts: Sequence[str], tokens: int = TOKENS) -> GreedySamples:
    """The most probable `tokens` tokens after each prompt. `digest`: of the model's weights."""
    samples = [GreedySample(prompt, [_kept(piece) for piece in _written(engine, prompt, tokens)]) for prompt in prompts]
    return GreedySamples(name, digest, tokens, samples)


def differences(engine: Engine, kept: GreedySamples) -> list[SampleDifference]:
    """Of what the engine writes now after the kept prompts; empty where all texts are the same."""
    found = []
    for sample in kept.samples:
        text = "".join(piece.text for piece in _written(engine, sample.prompt, kept.tokens))
        if text != sample.text:
            place = _first_difference(text, sample.text)
            found.append(
                SampleDifference(sample.prompt, place, sample.text[place:], text[place:], sample.margin_at(place))
            )
    return found


def _first_difference(text: str, other: str) -> int:
    pairs = enumerate(zip(text, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), min(len(text), len(other)))


def save(samples: GreedySamples, file: Path) -> None:
    durable.write_json(file, to_json(samples))


def load(file: Path) -> GreedySamples:
    """Raises UserError for a file that is not there, holds something else, or nothing to compare with."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; --save-samples {file} writes it")
    try:
        kept = from_json(GreedySamples, durable.read_json(file))
    except ValueError as error:
        raise UserError(f"{file}: holds no samples of --save-samples ({error})") from None
    if not kept.samples or not 1 <= kept.tokens <= MOST_TOKENS:
        found = f"{len(kept.samples)} samples of {kept.tokens:,} tokens"
        raise UserError(f"{file}: holds no samples of --save-samples (found {found})")
    return kept


def _written(engine: Engine, prompt: str, tokens: int) -> list[Piece]:
    return list(engine.stream(prompt, Options(max_new_tokens=tokens, temperature=0, alternatives=2)))


def _kept(piece: Piece) -> GreedyPiece:
    """With the smallest margin of its tokens; a vocabulary of one token has no second."""
    margins = [
        token.alternatives[0].logprob - token.alternatives[1].logprob
        for token in piece.tokens
        if len(token.alternatives) > 1
    ]
    return GreedyPiece(piece.text, round(min(margins), 6) if margins else None)
