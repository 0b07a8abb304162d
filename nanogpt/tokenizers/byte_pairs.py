"""Byte pairs, trained with `tokenizers` and run by `tiktoken` (6.5 MB/s a thread against 2.4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tiktoken

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.tokenizers.tokenizer import END_OF_TEXT, Json, Tokenizer, hf_settings
from nanogpt.tokenizers.vocabulary import GPT2_SIZE

# GPT-2's rule of what may be merged: a contraction, a word, a number, punctuation (each with its leading space).
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# Encoded a piece at a time: tiktoken's memory stays small, and a piece is the same on every machine.
PIECE = 1 << 20  # characters


class BPETokenizer(Tokenizer):
    """Byte pairs: ids below len(ranks) are byte strings in the order of their merging, then the special tokens."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        special: dict[str, int] | None = None,
        pattern: str = GPT2_PATTERN,
        name: str = "bpe",
    ):
        self.name = name
        self.special = special or {}
        self.pattern = pattern
        self.end_of_text = self.special.get(END_OF_TEXT)
        self.vocab_size = max(*ranks.values(), *self.special.values(), 0) + 1
        self._ranks = ranks
        self._bytes = {index: piece for piece, index in ranks.items()}
        self._bytes |= {index: text.encode("utf-8") for text, index in self.special.items()}
        self._encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.special)

    @classmethod
    def train(cls, text: str, vocab_size: int) -> BPETokenizer:
        """Learn at most `vocab_size` tokens from `text`, the last one the end of a text. Same text, same tokens."""
        from tokenizers import Tokenizer as HuggingFaceTokenizer
        from tokenizers import decoders, models, pre_tokenizers, trainers

        if vocab_size < 257:
            raise UserError(f"data.bpe_vocab_size: found {vocab_size}, needs 257 or more (256 bytes, end of text)")
        learner = HuggingFaceTokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        learner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 1, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
        learner.train_from_iterator(pieces, trainer)
        ranks = {unprintable(token): index for token, index in learner.get_vocab().items()}
        return cls(ranks, {END_OF_TEXT: len(ranks)})

    @classmethod
    def from_json(cls, content: Json) -> BPETokenizer:
        """Read a byte-level tokenizer.json, ours or a published one (GPT-2, Qwen). Raises KeyError, ValueError."""
        special = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        vocabulary = content["model"]["vocab"]
        ranks = {unprintable(token): index for token, index in vocabulary.items() if token not in special}
        is_gpt2 = len(ranks) == GPT2_SIZE - 1 and special == {END_OF_TEXT: GPT2_SIZE - 1}
        return cls(ranks, special, _pattern(content["pre_tokenizer"]), "gpt2" if is_gpt2 else "bpe")

    @cached_property
    def digest(self) -> str:
        ranks = [piece.hex() for piece in sorted(self._ranks, key=self._ranks.__getitem__)]
        return durable.digest(["bpe", self.pattern, ranks, self.special])

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        pieces = [
            self._encoding.encode_to_numpy(text[start : start + PIECE], disallowed_special=())
            for start in range(0, len(text), PIECE)
        ]
        return np.concatenate(pieces).astype(np.uint32) if pieces else np.zeros(0, np.uint32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes.get(int(index), b"") for index in ids)

    def token(self, index: int) -> str:
        return self._bytes.get(index, b"").decode("utf-8", errors="replace")

    def hugging_face(self) -> tuple[Json, Json]:
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        vocabulary = {stand_ins(piece): index for piece, index in self._ranks.items()}
        tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, self._merges()))
        if self.pattern == GPT2_PATTERN:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            split = pre_tokenizers.Split(Regex(self.pattern), "isolated")
            to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        specials = sorted(self.special, key=self.special.__getitem__)
        tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
        names = {"eos_token": END_OF_TEXT} if self.end_of_text is not None else {}
        return json.loads(tokenizer.to_str()), hf_settings(**names)

    def _merges(self) -> list[tuple[str, str]]:
        """The pair that each token was merged from: what is left of its bytes after all earlier merges."""
        merges = []
        for piece in sorted(self._ranks, key=self._ranks.__getitem__):
            if len(piece) > 1:
                parts = _merge(piece, self._ranks, self._ranks[piece])
                if len(parts) == 2:
                    merges.append((stand_ins(parts[0]), stand_ins(parts[1])))
        return merges


def _pattern(pre_tokenizer: Json) -> str:
    """The splitting rule of a byte-level tokenizer.json: its own expression, or GPT-2's built into ByteLevel."""
    for step in pre_tokenizer.get("pretokenizers", [pre_tokenizer]):
        if step["type"] == "Split":
            return str(step["pattern"]["Regex"])
        if step["type"] == "ByteLevel" and step.get("use_regex", True):
            return GPT2_PATTERN
    raise ValueError("its splitting rule is unknown")


def _merge(piece: bytes, ranks: Mapping[bytes, int], limit: int) -> Sequence[bytes]:
    """`piece` after all merges of rank below `limit`, lowest rank first, leftmost first (Sennrich et al. 2016)."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        rank, at = min((ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1))
        if rank >= limit:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


# GPT-2's printable stand-ins for the 256 bytes: printable Latin-1 stands for itself, the rest for U+0100 onwards.
_SELF = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTE_ORDER = _SELF + [byte for byte in range(256) if byte not in _SELF]
_STAND_IN = {byte: chr(byte if byte in _SELF else 256 + at - len(_SELF)) for at, byte in enumerate(BYTE_ORDER)}
_BYTE_OF = {character: byte for byte, character in _STAND_IN.items()}


def stand_ins(piece: bytes) -> str:
    """A printable character for each byte, as GPT-2 and all byte-level vocabularies write them."""
    return "".join(_STAND_IN[byte] for byte in piece)


def unprintable(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)
