"""Byte pairs, trained with `tokenizers` and run by `tiktoken` (6.5 MB/s a thread against 2.4)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import tiktoken

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.tokenizers.patterns import GPT2_PATTERN
from nanogpt.tokenizers.tokenizer import END_OF_TEXT, Json, Tokenizer, end_of, hf_settings, without_surrogates
from nanogpt.tokenizers.vocabulary import GPT2_SIZE

# Encoded a piece at a time: tiktoken's memory stays small, and a piece is the same on every machine.
PIECE = 1 << 20  # characters
# Longer words are learned from in parts: `tokenizers` moves the rest of a word at each merge: 82 s for 300 kB.
_LONG_WORDS = "|".join(f"{kind}{{1000}}" for kind in (r"\p{L}", r"\p{N}", r"\s", r"[^\s\p{L}\p{N}]"))
# The roles of a chat, for a fine-tuning later: their rows are there from the start, and no text has them.
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>", "<|tool_call|>", "<|tool_end|>")
# The published ones: (the last of their byte strings, the end of a text) -> name.
_NAMES = {
    (b"\xff", 256): "byte",
    (b" gazed", GPT2_SIZE - 1): "gpt2",
    (b" Conveyor", 100_257): "cl100k_base",
    (b" cocos", 199_999): "o200k_base",
}


class BPETokenizer(Tokenizer):
    """Byte pairs: ids below len(ranks) are byte strings in the order of their merging, then the special tokens."""

    def __init__(
        self,
        ranks: dict[bytes, int],
        special: dict[str, int] | None = None,
        pattern: str = GPT2_PATTERN,
        end: str | None = END_OF_TEXT,
    ):
        """`special`: text that stands for a token and its id; `end`: the one of them that ends a text."""
        self.special = special or {}
        self.pattern = pattern
        self.end_of_text = self.special.get(end) if end is not None else None
        self.vocab_size = max(*ranks.values(), *self.special.values(), 0) + 1
        self._ranks = ranks
        self._bytes = {index: piece for piece, index in ranks.items()}
        self._bytes |= {index: text.encode("utf-8") for text, index in self.special.items()}
        self.name = _NAMES.get((self._bytes.get(len(ranks) - 1, b""), self.special.get(END_OF_TEXT, -1)), "bpe")
        self._encoding = tiktoken.Encoding(
            self.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.special
        )

    @classmethod
    def train(
        cls, texts: str | Iterable[str], vocab_size: int, special: Sequence[str] = (END_OF_TEXT,)
    ) -> BPETokenizer:
        """Learn at most `vocab_size` tokens from `texts`; the last ones are `special`. Same texts, same tokens."""
        from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        least = 256 + len(special)
        if vocab_size < least:
            names = "end of text" if len(special) == 1 else f"{len(special)} special tokens"
            raise UserError(f"data.bpe_vocab_size: found {vocab_size}, needs {least} or more (256 bytes, {names})")
        learner = HuggingFaceTokenizer(models.BPE())
        parts = pre_tokenizers.Split(Regex(_LONG_WORDS), "isolated")
        learner.pre_tokenizer = pre_tokenizers.Sequence([parts, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        learner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - len(special),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        learner.train_from_iterator(pieces_of([texts] if isinstance(texts, str) else texts), trainer)
        ranks = {unprintable(token): index for token, index in learner.get_vocab().items()}
        return cls(ranks, {name: len(ranks) + place for place, name in enumerate(special)})

    @classmethod
    def of_bytes(cls) -> BPETokenizer:
        """Each byte of UTF-8 is a token, its id the byte; the last one ends a text."""
        return cls({bytes([byte]): byte for byte in range(256)}, {END_OF_TEXT: 256})

    @classmethod
    def from_json(cls, content: Json, settings: Json) -> BPETokenizer:
        """Read a byte-level tokenizer.json, ours or a published one (GPT-2, Qwen), and its tokenizer_config.json.

        Raises KeyError, ValueError.
        """
        special = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        vocabulary = content["model"]["vocab"]
        ranks = {unprintable(token): index for token, index in vocabulary.items() if token not in special}
        return cls(ranks, special, pattern_of(content["pre_tokenizer"]), end_of(special, settings))

    @cached_property
    def digest(self) -> str:
        ranks = [piece.hex() for piece in sorted(self._ranks, key=self._ranks.__getitem__)]
        return durable.digest(["bpe", self.pattern, ranks, self.special])

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        pieces = [part for piece in pieces_of([text]) for part in self._encoded(piece)]
        return np.concatenate(pieces).astype(np.uint32) if pieces else np.zeros(0, np.uint32)

    def _encoded(self, piece: str) -> list[npt.NDArray[np.uint32]]:
        """Ids of `piece`, in parts. Its expressions give up on a run of a million blanks: such a piece is halved."""
        try:
            return [self._encoding.encode_to_numpy(piece, disallowed_special=())]
        except UnicodeEncodeError:
            return self._encoded(without_surrogates(piece))
        except ValueError:
            if len(piece) < 2:
                raise
            half = len(piece) // 2
            return self._encoded(piece[:half]) + self._encoded(piece[half:])

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes.get(int(index), b"") for index in ids)

    def token(self, index: int) -> str:
        return self._bytes.get(index, b"").decode("utf-8", errors="replace")

    def hugging_face(self) -> tuple[Json, Json]:
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        merges = self._merges()
        vocabulary = {stand_ins(piece): index for piece, index in self._ranks.items()}
        specials = sorted(self.special, key=self.special.__getitem__)
        if [self.special[text] for text in specials] != [*range(len(vocabulary), len(vocabulary) + len(specials))]:
            vocabulary |= self.special  # else they get the ids that follow
        # tiktoken looks a word up whole first, so it may have tokens that no merges make.
        whole = {"ignore_merges": True} if len(merges) < len(self._ranks) - 256 else {}
        tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, merges, **whole))
        if self.pattern == GPT2_PATTERN:
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:
            split = pre_tokenizers.Split(Regex(self.pattern), "isolated")
            to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in specials])
        names = {} if self.end_of_text is None else {"eos_token": self.token(self.end_of_text)}
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


def pieces_of(texts: Iterable[str], length: int | None = None) -> Iterator[str]:
    """`texts`, cut into pieces of at most `length` characters, or PIECE."""
    length = length or PIECE
    return (text[start : start + length] for text in texts for start in range(0, len(text), length))


def pattern_of(pre_tokenizer: Json) -> str:
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
BYTE_STAND_INS = tuple(_STAND_IN.values())
_BYTE_OF = {character: byte for byte, character in _STAND_IN.items()}


def stand_ins(piece: bytes) -> str:
    """A printable character for each byte, as GPT-2 and all byte-level vocabularies write them."""
    return "".join(_STAND_IN[byte] for byte in piece)


def unprintable(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)
