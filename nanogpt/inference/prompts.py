"""A prompt as the model reads it: written as its training text was, with a word on what it cannot read."""

from __future__ import annotations

import re
from collections.abc import Callable

from nanogpt.faults import UserError
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import percent

MOST_UNKNOWN = 0.1  # of a prompt's characters, unless a person allows more
LINE_END_IN_WORDS = re.compile(r"\\[nt]")


def normalised(prompt: str, tokenizer: Tokenizer) -> str:
    """`prompt` as the training text was normalised (NFC, line ends, byte-order mark).

    Raises UserError for bytes of a command line that are not UTF-8: Python carries them as lone surrogates.
    """
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"prompt: its character {error.start + 1} is not text in UTF-8") from None
    return tokenizer.normalise(prompt)


def checked(prompt: str, tokenizer: Tokenizer, tell: Callable[[str], None], allow_unknown: bool = False) -> str:
    """normalised(), after telling what a person may not have meant.

    That is characters outside the vocabulary, which become a token that the model was never trained on, and a
    backslash before n or t. Raises UserError when more than MOST_UNKNOWN are unknown, unless `allow_unknown`.
    """
    prompt = normalised(prompt, tokenizer)
    if remark := backslash_in(prompt):
        tell(f"prompt: {remark}")
    unknown = tokenizer.unknown_in(prompt)
    if unknown:
        share = unknown.total() / len(prompt)
        commonest = ", ".join(f"{character!r} ({count:,})" for character, count in unknown.most_common(5))
        found = (
            f"prompt: {unknown.total():,} of {len(prompt):,} characters ({percent(share, 0)}) are outside the model's "
            f"vocabulary: {commonest}{', ...' if len(unknown) > 5 else ''}"
        )
        if share > MOST_UNKNOWN and not allow_unknown:
            raise UserError(f"{found}; more than {percent(MOST_UNKNOWN, 0)} needs --allow-unknown")
        tell(f"{found}; it was never trained on the token that stands for them")
    return prompt


def backslash_in(text: str) -> str:
    """What to say of a backslash before n or t, or "": a shell does not make a line end or tab of them."""
    if not (written := LINE_END_IN_WORDS.search(text)):
        return ""
    return (
        f"{written[0]} is a backslash and a letter here, no line end or tab; bash and zsh take $'...' for those, and a "
        "line end may be typed inside quotes"
    )


def left_out(prompt: str, tokenizer: Tokenizer, context: int) -> str:
    """How much of `prompt` is beyond the `context` newest tokens, which are all that the model sees, or ""."""
    tokens = len(tokenizer.encode(prompt))
    if tokens <= context:
        return ""
    beyond = tokens - context
    return f"prompt: of its {tokens:,} tokens the model sees the last {context:,}; the first {beyond:,} are left out"


def known(prompt: str, tokenizer: Tokenizer) -> str:
    """`prompt`, or "" where the vocabulary lacks some of it: for a default that may be of another language."""
    return prompt if tokenizer.reads(prompt) and not tokenizer.unknown_in(prompt) else ""
