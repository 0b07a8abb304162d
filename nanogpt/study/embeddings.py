"""What the table of tokens has learned: which tokens lie near each other, and a map of them in two dimensions.

Vectors are taken from their mean first: it is common to all tokens and says nothing of any (Mu and Viswanath 2018,
"All-but-the-Top"). The map is a principal component analysis: the plane that shows the most of the variance.
"""

from __future__ import annotations

from statistics import mean
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.faults import UserError
from nanogpt.model.gpt import weight_of
from nanogpt.results.study import EmbeddingStudy, PlacedToken
from nanogpt.study.subject import Subject, require_finite
from nanogpt.units import percent

Table = Literal["embedding", "head"]

MOST_TOKENS, LEAST_TOKENS = 300, 3
NEAREST = 5
VOWELS = "aeiou"


@torch.no_grad()
def study_embeddings(subject: Subject, text: str, table: Table = "embedding") -> EmbeddingStudy:
    """The most frequent tokens of `text`: MOST_TOKENS at most. `table`: what a token is read as, or, of an untied
    model, what the head compares the last layer with.

    Raises UserError for fewer than LEAST_TOKENS different tokens or another vocabulary, NonFiniteError.
    """
    ids, counts = torch.from_numpy(subject.ids_of(text).astype("int64")).unique(return_counts=True)
    if len(ids) < LEAST_TOKENS:
        raise UserError(f"the text: has {len(ids)} different tokens; a map needs at least {LEAST_TOKENS}")
    ids = ids[counts.argsort(descending=True, stable=True)][:MOST_TOKENS]
    module = subject.model.token_embedding if table == "embedding" else subject.model.head
    vectors = weight_of(module).detach()[ids].double()  # (N, n_embd)
    require_finite(vectors, subject.name)
    vectors = vectors - vectors.mean(0)
    places, explained = principal_plane(vectors)
    names = subject.pieces(ids)
    similarity = cosines(vectors).fill_diagonal_(-2.0)  # below any other: a token is not its own neighbour
    tokens = []
    for index, name in enumerate(names):
        near = similarity[index].topk(min(NEAREST, len(ids) - 1))
        nearest = [
            (names[other], value) for other, value in zip(near.indices.tolist(), near.values.tolist(), strict=True)
        ]
        x, y = places[index].tolist()
        tokens.append(PlacedToken(name, kind_of(name), x, y, nearest))
    return EmbeddingStudy(subject.name, table, tokens, explained, findings_of(tokens))


def principal_plane(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Centred vectors (N, n_embd) -> their places (N, 2) on the plane with the most variance, and the shares of it that
    both axes show. The sign of an axis is free: its farthest point is on the positive side."""
    u, s, _ = torch.linalg.svd(vectors, full_matrices=False)
    places = u[:, :2] * s[:2]  # (N, 2)
    farthest = places.abs().argmax(0)
    places = places * places[farthest, torch.arange(2)].sign()
    shares = (s.square() / s.square().sum().clamp_min(torch.finfo(s.dtype).tiny)).tolist()
    return places, (shares[0], shares[1])


def cosines(vectors: Tensor) -> Tensor:
    """(N, n_embd) -> (N, N)."""
    unit = F.normalize(vectors, dim=-1)
    return unit @ unit.T


def kind_of(token: str) -> str:
    """What sort of text a token is."""
    seen = token.strip()
    if not seen:
        return "space"
    if seen.isdigit():
        return "digit"
    if not seen.isalpha():
        return "sign"
    return "lower case" if seen.islower() else "upper case"


def findings_of(tokens: list[PlacedToken]) -> list[str]:
    """What is to be seen, in sentences."""
    return [*_of_kinds(tokens), *_of_case(tokens), *_of_vowels(tokens)]


def _of_kinds(tokens: list[PlacedToken]) -> list[str]:
    kinds = {token.token: token.kind for token in tokens}
    alike = mean(kinds[token.nearest[0][0]] == token.kind for token in tokens)
    others = len(tokens) - 1
    same = [sum(other.kind == token.kind for other in tokens) - 1 for token in tokens]
    return [
        f"For {percent(alike)} of the tokens the nearest one is of the same kind (letter case, digit, sign, space); by "
        f"chance it would be {percent(mean(same) / others)}."
    ]


def _of_case(tokens: list[PlacedToken]) -> list[str]:
    named = {token.token for token in tokens}
    paired = [token for token in tokens if token.token.swapcase() in named - {token.token}]
    if not paired:
        return []
    near = sum(token.token.swapcase() in [name for name, _ in token.nearest] for token in paired)
    return [
        f"{near} of {len(paired)} tokens that occur in both cases have the other case among their {NEAREST} nearest; "
        f"by chance it would be {percent(min(1.0, NEAREST / (len(tokens) - 1)))} of them."
    ]


def _of_vowels(tokens: list[PlacedToken]) -> list[str]:
    letters = {token.token: token for token in tokens if len(token.token) == 1 and token.kind == "lower case"}
    if not letters.keys() >= set(VOWELS):
        return []
    nearest = {vowel: next((name for name, _ in letters[vowel].nearest if name in letters), "") for vowel in VOWELS}
    near = sum(other in VOWELS for other in nearest.values() if other)
    return [f"Of {len(VOWELS)} vowels, {near} have another vowel as their nearest lower-case letter."]
