"""How each head attends: its weights on a text, how sharp they are, and which of the known roles it plays.

Roles: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (previous token); Olsson et al. 2022,
"In-context Learning and Induction Heads" (random tokens that come twice); Xiao et al. 2023, "Efficient Streaming
Language Models with Attention Sinks" (first token).
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

import torch
from torch import Tensor

from nanogpt.faults import UserError
from nanogpt.model.attention import entropy
from nanogpt.model.gpt import GPT
from nanogpt.results.study import AttentionStudy, EntropyAtStep, Head, Repetition
from nanogpt.study.checkpoints import models_of_training
from nanogpt.study.subject import Subject, require_finite
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import percent

MOST_POSITIONS = 256  # of a text: the weights of 12 layers of 12 heads are 38 MB then
LEAST_WEIGHT = 0.4  # on average on one place, for a role
BROAD = 0.85  # of the entropy of heads that look at all places evenly
REPETITIONS, LEAST_REPEATED = 16, 8  # pairs of copies; tokens in each
NOTICEABLE = 0.02  # nats, of the mean entropy
MOST_NAMED = 3  # heads that a sentence lists


@torch.no_grad()
def study_attention(subject: Subject, text: str) -> tuple[AttentionStudy, Tensor]:
    """What the heads do on the first tokens of `text`, MOST_POSITIONS at most, and their weights there:
    (n_layer, n_head, T, T) float32.

    Raises UserError for a text of fewer than two tokens or of another vocabulary, NonFiniteError, CorruptFileError.
    """
    ids = subject.tokens_of(text)[:MOST_POSITIONS]
    if len(ids) < 2:
        raise UserError("the text: is one token; attention needs at least two")
    logits, weights = subject.model(ids[None], return_attention=True)
    require_finite(logits, subject.name)
    weights = weights[:, 0]  # (n_layer, n_head, T, T)
    repetition, induction = repeated_tokens(subject.model, subject.tokenizer)
    even = even_weights(len(ids))
    heads = heads_of(weights, induction, float(entropy(even).mean()))
    chance = float(even.diagonal(-1).mean())
    checkpoints = entropy_over_training(subject, ids)
    study = AttentionStudy(
        model=subject.name,
        tokens=subject.pieces(ids),
        heads=heads,
        even_entropy=float(entropy(even).mean()),
        chance=chance,
        repetition=repetition,
        checkpoints=checkpoints,
        findings=[],
    )
    study.findings.extend(findings_of(study))
    return study, weights


def even_weights(T: int) -> Tensor:
    """(T, T): each position looks at itself and all before it evenly."""
    return torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]


def heads_of(weights: Tensor, induction: Tensor | None, even_entropy: float) -> list[Head]:
    """The figures of every head from its weights (n_layer, n_head, T, T); induction (n_layer, n_head)."""
    sharpness = entropy(weights).mean(-1)  # (n_layer, n_head)
    previous = weights.diagonal(-1, dim1=2, dim2=3).mean(-1)
    first = weights[:, :, 1:, 0].mean(-1)
    heads = []
    for layer in range(weights.size(0)):
        for head in range(weights.size(1)):
            at = layer, head
            copied = None if induction is None else float(induction[at])
            figures = float(sharpness[at]), float(previous[at]), float(first[at]), copied
            heads.append(Head(layer + 1, head + 1, *figures, role=role_of(*figures, even_entropy)))
    return heads


def role_of(nats: float, previous: float, first: float, induction: float | None, even_entropy: float) -> str:
    """The place with the most weight, where that is enough for a role."""
    places = {"previous token": previous, "first token": first, "induction": induction or 0.0}
    role = max(places, key=places.__getitem__)
    if places[role] >= LEAST_WEIGHT:
        return role
    return "broad" if nats >= BROAD * even_entropy else "mixed"


@torch.no_grad()
def repeated_tokens(model: GPT, tokenizer: Tokenizer) -> tuple[Repetition | None, Tensor | None]:
    """How the model copies: random tokens, no two alike, and then all of them again. Also each head's mean weight
    (n_layer, n_head) on the token that followed the first time. None where window or vocabulary are too small."""
    special = {tokenizer.end_of_text, tokenizer.unknown if isinstance(tokenizer, CharTokenizer) else None}
    usable = torch.tensor([index for index in range(tokenizer.vocab_size) if index not in special])
    length = min(model.config.block_size // 2, MOST_POSITIONS // 2, len(usable))
    if length < LEAST_REPEATED:
        return None, None
    generator = torch.Generator().manual_seed(0)
    rows = [usable[torch.randperm(len(usable), generator=generator)[:length]] for _ in range(REPETITIONS)]
    once = torch.stack(rows)  # (REPETITIONS, length)
    tokens = torch.cat([once, once], dim=1)

    def weight_after_the_first(weights: Tensor) -> Tensor:  # (B, n_head, 2 length, 2 length) -> (n_head,)
        return weights.diagonal(1 - length, dim1=2, dim2=3)[..., 1:].mean(dim=(0, 2))

    with model.traced(keep=weight_after_the_first) as trace:
        logits, _ = model(tokens)  # (B, 2 length, vocab_size)
    nats = -logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0].mean(0)  # (2 length - 1,)
    chance = float(even_weights(2 * length).diagonal(1 - length)[1:].mean())
    found = Repetition(length, float(nats[: length - 1].mean()), float(nats[length:].mean()), chance)
    return found, torch.stack(trace.attention)


def entropy_over_training(subject: Subject, ids: Tensor) -> list[EntropyAtStep]:
    """Of each checkpoint that the subject's training left, and of the weights that it began with."""
    found = []
    for step, model in models_of_training(subject.name):
        with model.traced(keep=lambda weights: entropy(weights)[0].mean(-1)) as trace:  # (n_head,)
            model.hidden(ids[None])
        found.append(EntropyAtStep(step, [layer.tolist() for layer in trace.attention]))
    return found


def clearest(study: AttentionStudy, layer: int | None, head: int | None) -> Head:
    """The head with the most weight on one place, among those of `layer`, or with the number `head`."""
    candidates = [h for h in study.heads if layer in (None, h.layer) and head in (None, h.head)]
    return max(candidates, key=lambda h: max(h.previous_token, h.first_token, h.induction or 0.0))


def findings_of(study: AttentionStudy) -> list[str]:
    """What is to be seen, in sentences."""
    return [*_of_roles(study), *_of_copying(study), *_of_layers(study), *_of_training(study)]


def _of_roles(study: AttentionStudy) -> list[str]:
    places: dict[str, tuple[str, Callable[[Head], float], float]] = {
        "previous token": ("mostly at the token before", lambda head: head.previous_token, study.chance),
        "first token": ("mostly at the first token", lambda head: head.first_token, study.chance),
        "induction": (
            "at what followed the same token earlier",
            lambda head: head.induction or 0.0,
            study.repetition.chance if study.repetition else 0.0,
        ),
    }
    sentences = []
    for role, (does, weight, chance) in places.items():
        playing = sorted((head for head in study.heads if head.role == role), key=weight, reverse=True)
        if playing:
            named = ", ".join(f"{head.name} ({percent(weight(head))})" for head in playing[:MOST_NAMED])
            more = "most clearly " if len(playing) > MOST_NAMED else ""
            looks = "looks" if len(playing) == 1 else "look"
            sentences.append(
                f"{len(playing)} of {len(study.heads)} heads {looks} {does}: {more}{named}; "
                f"even attention would put {percent(chance)} there."
            )
    if not sentences:
        sentences.append(
            f"No head puts {percent(LEAST_WEIGHT)} of its weight on the token before, on the first token, or on what "
            "followed the same token earlier."
        )
    return sentences


def _of_copying(study: AttentionStudy) -> list[str]:
    copied = study.repetition
    if copied is None:
        return []
    gain = copied.first - copied.second
    verdict = "it copies from its context" if gain > 0.5 else "it hardly copies from its context"
    return [
        f"Random tokens cost {copied.first:.2f} nats each at first and {copied.second:.2f} when all "
        f"{copied.length} come again: {verdict}."
    ]


def _of_layers(study: AttentionStudy) -> list[str]:
    layers = {layer: mean(study.entropies(layer)) for layer in range(1, study.layers + 1)}
    sharpest, broadest = min(layers, key=layers.__getitem__), max(layers, key=layers.__getitem__)
    if sharpest == broadest:
        return [f"Its attention has {layers[1]:.2f} nats; even attention would have {study.even_entropy:.2f}."]
    return [
        f"Attention is sharpest in layer {sharpest} ({layers[sharpest]:.2f} nats) and broadest in layer {broadest} "
        f"({layers[broadest]:.2f}); even attention would have {study.even_entropy:.2f}."
    ]


def _of_training(study: AttentionStudy) -> list[str]:
    if len(study.checkpoints) < 2:
        return []
    first, last = ((at.step, mean(map(mean, at.entropy))) for at in (study.checkpoints[0], study.checkpoints[-1]))
    change = last[1] - first[1]
    went = "hardly changed" if abs(change) < NOTICEABLE else "fell" if change < 0 else "rose"
    return [
        f"From step {first[0]:,} to step {last[0]:,} the mean attention entropy {went}, from {first[1]:.2f} to "
        f"{last[1]:.2f} nats."
    ]
