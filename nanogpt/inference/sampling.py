"""Choose the next token of each text from the model's logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from nanogpt.data.tokenizer import Tokenizer
from nanogpt.decoders.protocol import Logits
from nanogpt.inference.options import Alternative, Options, Token

GREEDY_BELOW = 1e-6  # temperature: the likeliest token is all that is left there
HIGHEST_TEMPERATURE = 1e30  # all tokens are equally likely there; float32 ends at 3e38
NOT_A_TOKEN = -1
BLOCK = 128  # weights that are summed at once
BUCKETS_PER_UNIT, BUCKETS = 16, 1024  # of nucleus(): by the logit's distance from the largest one
Weights = npt.NDArray[np.float32]  # of the tokens, (vocab_size,): their probabilities before normalisation


class Sampler:
    """How the tokens of one text are chosen: its options, and random numbers of its own.

    One uniform number decides each token, so a text depends on its seed and its own logits alone: not on the texts
    that are written with it, nor on what computed the logits. `window`: the tokens that the model looks back on.
    Raises UserError as Options.check() does.
    """

    def __init__(self, options: Options, vocab_size: int, window: Sequence[int]):
        options.check(vocab_size)
        self.options, self.window = options, window
        self.greedy = options.temperature < GREEDY_BELOW
        self.temperature = 1.0 if self.greedy else min(options.temperature, HIGHEST_TEMPERATURE)
        self.adjusts = options.repetition_penalty != 1 or bool(options.logit_bias)
        kept = (options.top_k, options.top_p, options.min_p, options.typical_p)
        self.truncates = any(limit is not None for limit in kept)
        self._random = np.random.Generator(np.random.PCG64(options.seed))
        self._biased = np.array([*options.logit_bias], dtype=np.int64)
        self._biases = np.array([*options.logit_bias.values()], dtype=np.float32)

    def uniform(self) -> float:
        """The next number in [0, 1)."""
        return self._random.random()

    def adjust(self, logits: Logits) -> None:
        """Change logits (vocab_size,) by the repetition penalty, then by the biases."""
        penalty = self.options.repetition_penalty
        if penalty != 1:
            seen = np.asarray(self.window)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if self.options.logit_bias:
            logits[self._biased] += self._biases

    def truncate(self, distances: Weights, weights: Weights) -> None:
        """Set weights (vocab_size,) = exp(distances) to zero outside what the options keep."""
        if self.options.top_k is not None:
            keep_likeliest(weights, self.options.top_k)
        if self.options.top_p is not None:
            keep_nucleus(distances, weights, self.options.top_p)
        if self.options.min_p is not None:
            weights[weights < self.options.min_p] = 0  # the largest is 1
        if self.options.typical_p is not None:
            keep_typical(weights, self.options.typical_p)


def choose(logits: Logits, samplers: Sequence[Sampler]) -> list[int]:
    """A token for each row of logits (B, vocab_size); NOT_A_TOKEN for a row of NaN or infinity."""
    largest = logits.max(axis=1, keepdims=True)  # (B, 1); NaN where a row has one
    finite = np.isfinite(largest)
    if not finite.all():
        logits = np.where(finite, logits, np.float32(0))
    if any(sampler.adjusts for sampler in samplers):
        logits = logits.copy()
        for row, sampler in zip(logits, samplers, strict=True):
            if sampler.adjusts:
                sampler.adjust(row)
    if all(sampler.greedy for sampler in samplers):
        chosen = logits.argmax(axis=1)
    else:
        chosen = _draw(logits, samplers)
        for row, sampler in enumerate(samplers):
            if sampler.greedy:
                chosen[row] = logits[row].argmax()
    if not finite.all():
        chosen[~finite[:, 0]] = NOT_A_TOKEN
    tokens: list[int] = chosen.tolist()
    return tokens


def _draw(logits: Logits, samplers: Sequence[Sampler]) -> npt.NDArray[np.int64]:
    """Tokens (B,) by their probabilities, those of softmax(logits / temperature) that the options keep."""
    rows, vocab_size = logits.shape
    temperatures = np.array([[sampler.temperature] for sampler in samplers], np.float32)  # (B, 1)
    distances = (logits - logits.max(axis=1, keepdims=True)) / temperatures  # (B, vocab_size), the largest is 0
    weights = np.zeros((rows, -(-vocab_size // BLOCK) * BLOCK), np.float32)  # whole blocks
    np.exp(distances, out=weights[:, :vocab_size])
    for row, sampler in enumerate(samplers):
        if sampler.truncates:
            sampler.truncate(distances[row], weights[row, :vocab_size])
    return at_quantiles(weights, np.array([sampler.uniform() for sampler in samplers]))


def at_quantiles(weights: Weights, uniforms: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The token (B,) of each row of weights (B, n * BLOCK) at which their running sum passes uniforms (B,) of its end.

    First among the sums of blocks, then inside one: numpy takes 0.55 ms for a running sum of 50,257 numbers in
    float64, and 0.02 ms for sums of blocks.
    """
    rows = np.arange(len(weights))
    blocks = weights.reshape(len(weights), -1, BLOCK)  # (B, n, BLOCK)
    ends = np.add.accumulate(np.add.reduce(blocks, axis=2, dtype=np.float64), axis=1)  # (B, n)
    wanted = uniforms * ends[:, -1]
    block = _first_above(ends, wanted)
    before = np.where(block > 0, ends[rows, block - 1], 0.0)
    inside = np.add.accumulate(blocks[rows, block], axis=1, dtype=np.float64)  # (B, BLOCK)
    return block * BLOCK + _first_above(inside, wanted - before)


def _first_above(ends: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Index (B,) of the first of ends (B, n), never falling, above wanted (B,); of the last step where rounding has
    put it above all."""
    below_last = np.minimum(wanted, np.nextafter(ends[:, -1], 0))
    first: npt.NDArray[np.int64] = (ends > below_last[:, None]).argmax(axis=1)
    return first


def keep_likeliest(weights: Weights, top_k: int) -> None:
    """Set all but the `top_k` largest of weights (vocab_size,) to zero; ties with the k-th stay."""
    if top_k < len(weights):
        weights[weights < np.partition(weights, -top_k)[-top_k]] = 0


def keep_nucleus(distances: Weights, weights: Weights, top_p: float) -> None:
    """Set weights (vocab_size,) to zero outside the fewest that reach `top_p` of their sum (Holtzman et al. 2020).

    distances: their logarithms, the largest near 0. Ties at the edge are kept in the order of their ids. Buckets of
    like distance are summed, and only the one at the edge is sorted: 0.15 ms for 50,257 tokens, a full sort takes 1 to
    6 ms.
    """
    if top_p >= 1:
        return
    buckets = np.minimum(distances * -BUCKETS_PER_UNIT, BUCKETS - 1).astype(np.intp)  # the likeliest tokens in 0
    ends = np.bincount(buckets, weights).cumsum()
    wanted = top_p * ends[-1]
    edge = int(np.searchsorted(ends, wanted))
    weights *= buckets <= edge
    tokens = np.flatnonzero(buckets == edge)
    tokens = tokens[np.argsort(-weights[tokens], kind="stable")]
    sums = weights[tokens].cumsum(dtype=np.float64) + (ends[edge - 1] if edge else 0)
    weights[tokens[1 + np.searchsorted(sums, wanted) :]] = 0


def keep_typical(weights: Weights, typical_p: float) -> None:
    """Set weights (vocab_size,) to zero outside the fewest, of those whose surprise is nearest to the expected one,
    that reach `typical_p` of their sum (Meister et al. 2022)."""
    kept = np.flatnonzero(weights)
    probabilities = weights[kept] / weights[kept].sum(dtype=np.float64)  # float64
    surprises = -np.log(probabilities)
    order = np.argsort(np.abs(surprises - probabilities @ surprises), kind="stable")
    sums = probabilities[order].cumsum()
    weights[kept[order[1 + np.searchsorted(sums, typical_p) :]]] = 0


def described(token: int, logits: Logits, count: int, tokenizer: Tokenizer) -> Token:
    """`token` and the `count` likeliest under logits (vocab_size,), with their logarithms of probabilities."""
    largest = logits.max()
    logprobs = logits - (largest + np.log(np.exp(logits - largest).sum(dtype=np.float64)))  # float64
    count = min(count, len(logits))
    likeliest = np.argpartition(-logits, count - 1)[:count] if count else np.zeros(0, np.int64)
    likeliest = likeliest[np.lexsort((likeliest, -logits[likeliest]))]
    alternatives = tuple(Alternative(int(i), tokenizer.token(int(i)), float(logprobs[i])) for i in likeliest)
    return Token(token, tokenizer.token(token), float(logprobs[token]), alternatives)
