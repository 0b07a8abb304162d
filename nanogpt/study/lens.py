"""What a model would say after each layer (logit lens), and how surprised it is by each token of a text.

Source: nostalgebraist 2020, "interpreting GPT: the logit lens": the final norm and the head read the residual stream
of any layer, because all layers add to the same stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import mean

import torch
from torch import Tensor

from nanogpt.faults import UserError
from nanogpt.results.study import Guess, LensLayer, LensStudy, SeenToken, SurpriseStudy
from nanogpt.study.subject import Subject, require_finite
from nanogpt.units import percent

MOST_POSITIONS = 256  # for the lens: the logits of one layer are 51 MB with GPT-2's vocabulary
SHOWN = 16  # places of the text whose guesses are kept
MOST_TOKENS = 2000  # whose surprise is measured
GUESSES = 5  # likeliest tokens at each place
MOST_NAMED = 3
SETTLED = 0.5  # share of a text, for a layer's guesses to be called the final ones


@torch.no_grad()
def study_lens(subject: Subject, text: str) -> LensStudy:
    """The lens over the first tokens of `text`. Raises UserError for fewer than two tokens or another vocabulary,
    NonFiniteError."""
    ids = subject.tokens_of(text)[:MOST_POSITIONS]
    _require_two(ids)
    model, following = subject.model, ids[1:]
    with model.traced(residual=True) as trace:
        logits = model.head(model.hidden(ids[None]))[0]  # (T, vocab_size)
    require_finite(logits, subject.name)
    final = logits[:-1].log_softmax(-1)  # (T - 1, vocab_size)
    layers, guesses = [], []
    for layer, stream in enumerate(trace.residual):
        said = model.head(model.final_norm(stream))[0].log_softmax(-1)
        require_finite(said, f"{subject.name}, layer {layer}")
        before = said[:-1]
        layers.append(
            LensLayer(
                layer=layer,
                loss=-float(before.gather(1, following[:, None]).mean()),
                agreement=float((before.argmax(-1) == final.argmax(-1)).float().mean()),
                divergence=float((final.exp() * (final - before)).sum(-1).mean()),
            )
        )
        best = said[:SHOWN].exp().max(-1)
        tokens = subject.pieces(best.indices)
        guesses.append([Guess(token, value) for token, value in zip(tokens, best.values.tolist(), strict=True)])
    return LensStudy(subject.name, subject.pieces(ids), layers, guesses, _of_lens(layers))


def _of_lens(layers: list[LensLayer]) -> list[str]:
    first, last = layers[0], layers[-1]
    gains = {after.layer: before.loss - after.loss for before, after in pairwise(layers)}
    largest = max(gains, key=gains.__getitem__)
    brings = f"layer {largest} lowers it most ({gains[largest]:.2f})" if gains[largest] > 0 else "no layer lowers it"
    settled = next(layer for layer in layers if layer.agreement >= SETTLED)
    if settled is last:
        when = f"Before the last layer the likeliest next token is the final one for less than {percent(SETTLED)}"
    else:
        place = f"layer {settled.layer}" if settled.layer else "the embeddings"
        when = f"After {place} the likeliest next token is already the final one for {percent(settled.agreement)}"
    return [
        f"Read after each layer, the loss goes from {first.loss:.2f} nats at the embeddings to {last.loss:.2f} after "
        f"layer {last.layer}; {brings}.",
        f"{when} of the text.",
    ]


@torch.no_grad()
def study_surprise(subject: Subject, text: str) -> SurpriseStudy:
    """How little the model expected each of the first MOST_TOKENS tokens of `text`, with half a window of context at
    least after the first window. Raises as study_lens()."""
    ids = torch.from_numpy(subject.ids_of(text)[:MOST_TOKENS].astype("int64"))
    _require_two(ids)
    seen = [SeenToken(subject.pieces(ids[:1])[0], None, None, [])]
    for place, log_probabilities in enumerate(_predictions(subject, ids), 1):  # (vocab_size,) each
        own = log_probabilities[ids[place]]
        likeliest = log_probabilities.topk(min(GUESSES, len(log_probabilities)))
        names = subject.pieces(likeliest.indices)
        guesses = [Guess(name, value) for name, value in zip(names, likeliest.values.exp().tolist(), strict=True)]
        rank = int((log_probabilities >= own).sum())  # of equals the last: even probabilities are no first guess
        seen.append(SeenToken(subject.pieces(ids[place : place + 1])[0], -float(own), rank, guesses))
    nats = [token.nats for token in seen if token.nats is not None]
    return SurpriseStudy(subject.name, seen, mean(nats), _of_surprise(seen, nats))


def _predictions(subject: Subject, ids: Tensor) -> Iterator[Tensor]:
    """For every token of ids (N,) but the first: the logarithms of the probabilities (vocab_size,) before it."""
    window, place, start = subject.model.config.block_size, 0, 0
    while place < len(ids) - 1:
        logits, _ = subject.model(ids[None, start : start + window])
        require_finite(logits, subject.name)
        predicted = logits[0].log_softmax(-1)  # of the tokens start + 1 and so on
        new = predicted[place - start : len(ids) - 1 - start]
        yield from new
        place += len(new)
        start = place - window // 2


def _of_surprise(seen: list[SeenToken], nats: list[float]) -> list[str]:
    guessed = sum(token.rank == 1 for token in seen) / len(nats)
    most = sorted(nats, reverse=True)
    half, count = 0.0, 0
    while half < sum(nats) / 2:
        half, count = half + most[count], count + 1
    worst = sorted((token for token in seen if token.nats), key=lambda token: token.nats or 0.0, reverse=True)
    named = ", ".join(f"{token.text!r} ({token.nats:.1f} nats)" for token in worst[:MOST_NAMED])
    return [
        f"The text costs {mean(nats):.2f} nats a token; {percent(guessed)} of its tokens are the model's first guess.",
        f"Half of that is in {percent(count / len(nats))} of the tokens; the least expected: {named}.",
    ]


def _require_two(ids: Tensor) -> None:
    if len(ids) < 2:
        raise UserError("the text: is one token; a prediction needs at least two")
