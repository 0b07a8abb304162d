"""The tokenizer that data.tokenizer names, made for a text or obtained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nanogpt.config import HUB, TOKENIZERS, DataConfig
from nanogpt.faults import CorruptFileError, UserError, nearest
from nanogpt.sources.own import own_path
from nanogpt.sources.part import Notify, say_nothing
from nanogpt.spelling import spelled
from nanogpt.tokenizers.byte_pairs import CHAT_TOKENS, BPETokenizer
from nanogpt.tokenizers.character_bytes import CharBytesTokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.loading import read_tokenizer
from nanogpt.tokenizers.published import PUBLISHED, gpt2_tokenizer, published_tokenizer
from nanogpt.tokenizers.tokenizer import END_OF_TEXT, FILE, Tokenizer

OF_THE_WHOLE_TEXT = ("char", "char_bytes")  # whose alphabet should be that of all splits; others learn from train alone
MOST_SAMPLED = 1 << 27  # characters
# What a tokenizer has to give back as it was, or a model of it would learn and be measured on another text.
PROBE = "The  quick\tbrown fox:\n\n    na\u00efve \u00ab1,603\u00bb don't x\u00b2 \u5b57 \U0001f642\n"


def make_tokenizer(
    kind: str, sample: Iterable[str], folder: Path, config: DataConfig, notify: Notify = say_nothing
) -> Tokenizer:
    """The tokenizer called `kind`: learned from `sample`, at most MOST_SAMPLED characters of it, or obtained.

    `folder` keeps what is downloaded, and is where the tokenizer will be saved. Raises UserError for one that is not
    there, is none, or does not give a text back.
    """
    if kind == "char":
        return CharTokenizer(_alphabet(sample))
    if kind == "char_bytes":
        return CharBytesTokenizer(_alphabet(sample))
    if kind == "byte":
        return BPETokenizer.of_bytes()
    if kind == "bpe":
        special = (END_OF_TEXT, *CHAT_TOKENS) if config.chat_tokens else (END_OF_TEXT,)
        return BPETokenizer.train(_bounded(sample), config.bpe_vocab_size, special)
    if kind == "gpt2":
        return gpt2_tokenizer(folder, config.mirrors, notify)
    if kind in PUBLISHED:
        return published_tokenizer(kind, folder, config.mirrors, notify)
    if kind in TOKENIZERS:
        raise UserError(f"data.tokenizer: {kind} is decided by the plan; name another of {', '.join(TOKENIZERS)}")
    return _checked(kind, _of_hub(kind, config.mirrors) if kind.startswith(HUB) else _of_file(kind))


def check_kind(kind: str) -> None:
    """Refuse a file that is no tokenizer, before any work. Raises UserError; uses no network."""
    if kind not in TOKENIZERS and not kind.startswith(HUB):
        _checked(kind, _of_file(kind))


def _alphabet(sample: Iterable[str]) -> set[str]:
    alphabet: set[str] = set()
    for text in _bounded(sample):
        alphabet |= set(text)
    return alphabet


def _bounded(sample: Iterable[str]) -> Iterator[str]:
    left = MOST_SAMPLED
    for text in sample:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _of_file(place: str) -> Tokenizer:
    path = own_path(place)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        hint = nearest(place, TOKENIZERS)
        raise UserError(f"data.tokenizer: {spelled(path)}: no such file; expected a tokenizer.json or its folder{hint}")
    return _read(place, path)


def _of_hub(address: str, mirrors: Sequence[str]) -> Tokenizer:
    from nanogpt.tokenizers.hub import tokenizer_file  # huggingface_hub: 0.2 s that other kinds do not need

    return _read(address, tokenizer_file(address, mirrors))


def _read(place: str, path: Path) -> Tokenizer:
    try:
        return read_tokenizer(path)
    except (CorruptFileError, OSError) as error:
        of_hub = f"{place}: " if place.startswith(HUB) else ""
        raise UserError(f"data.tokenizer: {of_hub}{' '.join(str(error).split())[:300]}") from error


def _checked(place: str, tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer`, which gives PROBE back. Raises UserError where it does not."""
    given = tokenizer.decode(tokenizer.encode(PROBE)) if tokenizer.reads(PROBE) else ""
    if given != PROBE:
        lost = next((a for a, b in zip(PROBE, given, strict=False) if a != b), PROBE[len(given) : len(given) + 1])
        raise UserError(
            f"data.tokenizer: {spelled(place)} does not give a text back as it was (it loses {lost!r} of "
            f"{PROBE[:19]!r}...), so losses would be those of another text; take one with all bytes, such as gpt2"
        )
    return tokenizer
