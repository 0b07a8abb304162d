"""Choose the next token of each text from the model's logits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nanogpt.decoders.protocol import Logits
from nanogpt.inference.options import Alternative, Options, Token
from nanogpt.tokenizers.tokenizer import Tokenizer

GREEDY_BELOW = 1e-6  # temperature: the likeliest token is all that is left there
HIGHEST = 1e30  # of a temperature, at which all tokens are equally likely, a penalty and a bias; float32 ends at 3e38
LEAST_PENALTY = 1 / HIGHEST  # a logit divided by less is infinite, and a text with it ended those written with it
NOT_A_TOKEN = -1
LARGEST_UNIFORM = 1 - 2**-52  # times any float64 it is less than that
SMALL_VOCABULARY, BLOCK = 1024, 128  # tokens; of a larger one, weights are summed in blocks
BUCKETS_PER_UNIT, BUCKETS = 16, 1024  # of nucleus(): by the logit's distance from the largest one
PIECE = 8192  # tokens
Weights = npt.NDArray[np.float32]  # of the tokens, (vocab_size,): their probabilities before normalisation


class Limit(Protocol):
    """What a text may go on with: `allowed` (vocab_size,), which changes as the text does."""

    @property
    def allowed(self) -> npt.NDArray[np.bool_]: ...


class Sampler:
    """How the tokens of one text are chosen: its options, and random numbers of its own.

    One uniform number decides each token, so a text depends on its seed and its own logits alone: not on the texts
    that are written with it, nor on what computed the logits. `window`: the tokens that the model looks back on.
    """

    def __init__(self, options: Options, window: Sequence[int], limit: Limit | None = None):
        self.options, self.window, self.limit = options, window, limit
        self.greedy = options.temperature < GREEDY_BELOW
        self.temperature = 1.0 if self.greedy else min(options.temperature, HIGHEST)
        self.penalty = min(max(options.repetition_penalty, LEAST_PENALTY), HIGHEST)
        self.adjusts = self.penalty != 1 or bool(options.logit_bias) or limit is not None
        kept = (options.top_k, options.top_p, options.min_p, options.typical_p)
        self.truncates = any(limit is not None for limit in kept)
        self._next: deque[float] = deque()  # drawn already
        self._random = np.random.Generator(np.random.PCG64(options.seed))
        self._biased = np.array([*options.logit_bias], dtype=np.int64)
        self._biases = np.array([min(bias, HIGHEST) for bias in options.logit_bias.values()], dtype=np.float32)

    def uniform(self) -> float:
        """The next number in [0, LARGEST_UNIFORM]."""
        return self._next.popleft() if self._next else self._drawn()

    def follow(self, other: Sampler, count: int) -> None:
        """Take the next `count` numbers of `other`, which it keeps, for the next ones here."""
        while len(other._next) < count:
            other._next.append(other._drawn())
        self._next = deque(islice(other._next, count))

    def _drawn(self) -> float:
        return min(self._random.random(), LARGEST_UNIFORM)

    def adjust(self, logits: Logits) -> None:
        """Change logits (vocab_size,) by the repetition penalty, the biases, and what the limit allows.

        Where the biases leave nothing that it allows, all of that is equally likely.
        """
        penalty = self.penalty
        if penalty != 1:
            seen = np.asarray(self.window)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
        if self.options.logit_bias:
            logits[self._biased] += self._biases
        if self.limit is not None:
            logits[~self.limit.allowed] = -np.inf
            if logits.max() == -np.inf:
                logits[self.limit.allowed] = 0

    def truncate(self, distances: Weights, weights: Weights) -> None:
        """Set weights (vocab_size,) = exp(distances) to zero outside what the options keep."""
        if self.options.top_k is not None:
            keep_likeliest(weights, self.options.top_k)
        if self.options.top_p is not None:
            keep_nucleus(distances, weights, self.options.top_p)
        if self.options.min_p is not None:
            weights *= weights >= self.options.min_p  # the largest is 1
        if self.options.typical_p is not None:
            keep_typical(weights, self.options.typical_p)


def choose(logits: Logits, samplers: Sequence[Sampler]) -> list[int]:
    """A token for each row of logits (B, vocab_size); NOT_A_TOKEN for a row of NaN or infinity."""
    finite = np.isfinite(logits.max(axis=1))  # (B,); the largest of a row with NaN is NaN
    if not finite.all():
        rows = [row for row, is_finite in enumerate(finite) if is_finite]
        chosen = [NOT_A_TOKEN] * len(logits)
        for row, token in zip(rows, choose(logits[rows], [samplers[row] for row in rows]) if rows else (), strict=True):
            chosen[row] = token
        return chosen
    if any(sampler.adjusts for sampler in samplers):
        logits = _copied(logits)
        for row, sampler in enumerate(samplers):
            if sampler.adjusts:
                sampler.adjust(logits[row])
    likeliest: list[int] = logits.argmax(axis=1).tolist()
    if all(sampler.greedy for sampler in samplers):
        return likeliest
    drawn = _draw(logits, samplers)
    return [
        greedy if sampler.greedy else token for sampler, greedy, token in zip(samplers, likeliest, drawn, strict=True)
    ]


def _draw(logits: Logits, samplers: Sequence[Sampler]) -> list[int]:
    """Tokens (B,) by their probabilities: those of softmax(logits / temperature) that the options keep."""
    distances = np.subtract(logits, logits.max(axis=1, keepdims=True), out=_reused("distances", logits.shape))
    distances /= np.array([sampler.temperature for sampler in samplers], np.float32)[:, None]
    weights = np.exp(distances, out=_reused("weights", logits.shape))  # (B, vocab_size), the largest is 1
    for row, sampler in enumerate(samplers):
        if sampler.truncates:
            sampler.truncate(distances[row], weights[row])
    tokens: list[int] = at_quantiles(weights, [sampler.uniform() for sampler in samplers]).tolist()
    return tokens


def _copied(logits: Logits) -> Logits:
    copy = _reused("logits", logits.shape)
    np.copyto(copy, logits)
    return copy


_arrays = threading.local()


def _reused(name: str, shape: tuple[int, ...]) -> Logits:
    """An array of this thread, with anything in it: a fresh one for each token is mapped anew each time.

    Of 50,257 tokens, the page faults take 0.3 ms of a top-p that takes 0.6 with them.
    """
    array: Logits | None = getattr(_arrays, name, None)
    if array is None or array.shape != shape:
        array = np.empty(shape, np.float32)
        setattr(_arrays, name, array)
    return array


def at_quantiles(weights: Logits, uniforms: Sequence[float]) -> npt.NDArray[np.int64]:
    """The token (B,) of each row of weights (B, vocab_size) at which their running sum passes `uniforms` of its end.

    Of a large vocabulary, the sums of blocks say first in which block that is: numpy takes 0.5 ms for a running sum of
    50,257 numbers in float64, and 0.02 ms for the sums of blocks.
    """
    if weights.shape[1] <= SMALL_VOCABULARY:
        return _first_above(np.add.accumulate(weights, axis=1, dtype=np.float64), uniforms)
    blocks = np.arange(0, weights.shape[1], BLOCK)  # (n,), where each begins
    sums = np.add.reduceat(weights, blocks, axis=1, dtype=np.float64)  # (B, n)
    ends = np.add.accumulate(sums, axis=1)
    tokens = _first_above(ends, uniforms)  # of blocks, so far
    for row, block in enumerate(tokens):
        share = 1 - (ends[row, block] - uniforms[row] * ends[row, -1]) / sums[row, block]  # of the block's sum
        inside = np.add.accumulate(
            weights[row : row + 1, block * BLOCK : (block + 1) * BLOCK], axis=1, dtype=np.float64
        )
        tokens[row] = block * BLOCK + _first_above(inside, [min(max(share, 0.0), LARGEST_UNIFORM)])[0]
    return tokens


def _first_above(ends: npt.NDArray[np.float64], shares: Sequence[float]) -> npt.NDArray[np.int64]:
    """Index (B,) of the first of ends (B, n), never falling, above `shares`, LARGEST_UNIFORM or less, of the last."""
    wanted = np.array(shares) * ends[:, -1]
    first: npt.NDArray[np.int64] = (ends > wanted[:, None]).argmax(axis=1)
    return first


def keep_likeliest(weights: Weights, top_k: int) -> None:
    """Set all but the `top_k` largest of weights (vocab_size,) to zero; ties with the k-th stay."""
    if top_k < len(weights):
        weights *= weights >= np.partition(weights, -top_k)[-top_k]


def keep_nucleus(distances: Weights, weights: Weights, top_p: float) -> None:
    """Set weights (vocab_size,) to zero outside the fewest that reach `top_p` of their sum (Holtzman et al. 2020).

    distances: their logarithms, the largest is 0. Ties at the edge are kept in the order of their ids. Buckets of
    like distance are summed, and only the one at the edge is sorted: 0.15 ms for 50,257 tokens, a full sort takes 1 to
    6 ms. In pieces, because an array of that size is mapped anew each time (0.5 ms).
    """
    if top_p >= 1:
        return
    sums = np.zeros(BUCKETS)
    for start in range(0, len(weights), PIECE):
        piece = slice(start, start + PIECE)
        buckets = np.minimum(distances[piece] * -BUCKETS_PER_UNIT, BUCKETS - 1).astype(np.intp)  # the likeliest in 0
        sums += np.bincount(buckets, weights[piece], minlength=BUCKETS)
    ends = sums.cumsum()
    wanted = top_p * ends[-1]
    edge = int(np.searchsorted(ends, wanted))
    # In bucket b: -(b + 1) / BUCKETS_PER_UNIT < distance <= -b / BUCKETS_PER_UNIT, and all below in the last one.
    if edge < BUCKETS - 1:
        weights *= distances > -(edge + 1) / BUCKETS_PER_UNIT
    tokens = np.flatnonzero((distances <= -edge / BUCKETS_PER_UNIT) & (weights > 0))
    tokens = tokens[np.argsort(-weights[tokens], kind="stable")]
    reached = weights[tokens].cumsum(dtype=np.float64) + (ends[edge - 1] if edge else 0)
    weights[tokens[1 + np.searchsorted(reached, wanted) :]] = 0


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
