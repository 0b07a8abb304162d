"""Every token of a text as a model predicts it: its cost, and the first choice, how probable and whether right.

Context slides: windows begin every `stride` tokens, and of all but the first only the last `stride` predictions count,
so that each has at least window - stride tokens before it (Hugging Face, "Perplexity of fixed-length models").
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nanogpt.data.shard_file import Ids
from nanogpt.data.shards import MOST_UNKNOWN, open_split
from nanogpt.data.texts import DOCUMENT_SEPARATOR, bytes_of
from nanogpt.evaluation.block_bootstrap import Floats, Numbers
from nanogpt.faults import NonFiniteError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.model.limits import LOGITS_AT_ONCE, TOKENS_AT_ONCE
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import percent

Singles = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenisedText:
    """A text as one tokenizer reads it: tokens (T,), and the byte of the text at which each begins, (T,).

    `unknown`: characters outside its vocabulary, which one token stands for.
    """

    tokens: Ids
    starts: Numbers
    bytes: int
    unknown: int = 0


@dataclass(frozen=True)
class TokenScores:
    """By window and place in it, (R, window): nats, the first choice's probability, whether that was right.

    `is_counted` marks each token of the text but the first once, in order; nats is NaN behind the text's end.
    """

    nats: Singles
    confidence: Singles
    is_right: npt.NDArray[np.bool_]
    is_counted: npt.NDArray[np.bool_]


def split_text(data_folder: Path, split: str, tokenizer: Tokenizer, reader: str) -> TokenisedText:
    """A split of `data_folder` as `tokenizer` reads it: its own ids, or its text tokenised anew.

    Raises UserError where more than a tenth of the text is outside the vocabulary; `reader` is who reads it.
    """
    opened = open_split(data_folder, split)
    if opened.tokenizer_digest == tokenizer.digest:
        return _placed(np.asarray(opened.tokens), opened.bytes, tokenizer)
    text = bytes_of(opened.tokens, load_tokenizer(data_folder)).decode("utf-8", errors="replace")
    unknown = tokenizer.unknown_in(text).total()
    if unknown > MOST_UNKNOWN * len(text) or (unknown and not tokenizer.has_unknown):
        allowed = f"at most {percent(MOST_UNKNOWN)} may be" if tokenizer.has_unknown else "it has no token for them"
        raise UserError(
            f"{data_folder}: {unknown:,} of the {len(text):,} characters of its {split} split are outside the "
            f"vocabulary of {reader}; {allowed}"
        )
    return replace(_placed(tokenizer.encode(text), opened.bytes, tokenizer), unknown=unknown)


def beginning(text: TokenisedText, most_bytes: int) -> TokenisedText:
    """The tokens that begin in the first `most_bytes` bytes."""
    if text.bytes <= most_bytes:
        return text
    end = int(np.searchsorted(text.starts, most_bytes))
    return replace(text, tokens=text.tokens[:end], starts=text.starts[:end], bytes=most_bytes)


def _placed(tokens: Ids, size: int, tokenizer: Tokenizer) -> TokenisedText:
    lengths = np.array([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)], dtype=np.int64)
    if tokenizer.end_of_text is not None:
        lengths[tokenizer.end_of_text] = len(DOCUMENT_SEPARATOR)
    ends = np.cumsum(lengths[tokens])  # (T,)
    starts = np.concatenate([[0], ends[:-1]])
    if len(ends) and ends[-1] != size:  # unknown characters have other bytes than the sign that stands for them
        starts = starts * size // max(1, int(ends[-1]))
    return TokenisedText(tokens, starts.astype(np.int64), size)


@torch.no_grad()
def score(model: GPT, tokens: Ids, window: int, stride: int, device: str = "cpu") -> TokenScores:
    """Predict every token of `tokens` (T,) but the first. The model is moved to `device`.

    Raises UserError for fewer tokens than one window and its first token, NonFiniteError when the model computes NaN.
    """
    if len(tokens) <= window:
        raise UserError(
            f"the text has {len(tokens):,} tokens; a window of {window:,} needs {window + 1:,} (--window N takes less)"
        )
    model.to(device).eval()
    predicted = len(tokens) - 1
    rows = 1 + max(0, math.ceil((predicted - window) / stride))
    nats, confidence = (np.empty((rows, window), np.float32) for _ in range(2))
    is_right = np.empty((rows, window), np.bool_)
    at_once = max(1, TOKENS_AT_ONCE // window)
    for first in range(0, rows, at_once):
        piece = slice(first, min(rows, first + at_once))
        places = np.arange(piece.start, piece.stop)[:, None] * stride + np.arange(window + 1)  # (rows, window + 1)
        ids = torch.from_numpy(tokens[np.minimum(places, predicted)].astype(np.int64)).to(device)
        found = [torch.cat(parts).view(-1, window) for parts in zip(*_predictions(model, ids), strict=True)]
        nats[piece], confidence[piece], is_right[piece] = (part.cpu().numpy() for part in found)
    targets = np.arange(rows)[:, None] * stride + np.arange(1, window + 1)  # (R, window): places in the text
    is_counted = targets <= predicted
    if not np.isfinite(nats[is_counted]).all():
        raise NonFiniteError("the loss is NaN or infinite: the model computes no probabilities")
    nats[~is_counted] = np.nan
    is_counted[1:, : window - stride] = False
    return TokenScores(nats, confidence, is_right, is_counted)


def _predictions(model: GPT, ids: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """ids (rows, window + 1) -> nats, probability of the first choice and whether it is right, in pieces."""
    hidden, targets = model.hidden(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()  # (N, n_embd), (N,)
    at_once = max(1, LOGITS_AT_ONCE // model.head.out_features)
    for x, target in zip(hidden.split(at_once), targets.split(at_once), strict=True):
        logits = model.head(x).float()  # (n, vocab_size)
        total = logits.logsumexp(-1)
        highest, choice = logits.max(-1)
        nats = total - logits.gather(1, target[:, None])[:, 0]
        yield nats, (highest - total).exp(), choice == target


def in_order(scores: TokenScores) -> tuple[Floats, Floats, Floats]:
    """nats, confidence and is_right of tokens 1 .. T - 1 of the text, (T - 1,) each."""
    counted = scores.is_counted
    nats, confidence, is_right = (
        part[counted].astype(np.float64) for part in (scores.nats, scores.confidence, scores.is_right)
    )
    return nats, confidence, is_right
