"""Text to token ids and back: single characters, or byte pairs.

Byte pairs are trained with `tokenizers` and run by `tiktoken` (6.5 MB/s a thread against 2.4). A tokenizer is one file,
`tokenizer.json` in Hugging Face's format, which transformers, vLLM and mlx-lm open too; llama.cpp has it from the GGUF
export.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tiktoken

from nanogpt import durable
from nanogpt.data.part import Notify, Unobtainable, say_nothing
from nanogpt.data.preprocessing import clean
from nanogpt.data.sources import Entry, obtain
from nanogpt.data.vocabulary import GPT2_SIZE
from nanogpt.faults import CorruptFileError, UserError

FILE = "tokenizer.json"
HF_FILE = "tokenizer_config.json"
UNKNOWN = "<unknown>"
UNKNOWN_SHOWN = "\ufffd"
END_OF_TEXT = "<|endoftext|>"
# GPT-2's rule of what may be merged: a contraction, a word, a number, punctuation (each with its leading space).
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# Encoded a piece at a time: tiktoken's memory stays small, and a piece is the same on every machine.
PIECE = 1 << 20  # characters

_GPT2_HOME = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
# A mirror keeps them as tiktoken's own cache does: under the sha1 of their address.
GPT2_MERGES = Entry(
    name="the GPT-2 vocabulary (vocab.bpe)",
    file="gpt2-vocab.bpe",
    # The second: the same merges in Hugging Face's GPT-2; not reached where this was written, the sha256 decides.
    homes=(f"{_GPT2_HOME}/vocab.bpe", "https://huggingface.co/openai-community/gpt2/resolve/main/merges.txt"),
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    bytes=456_318,
    description="GPT-2's vocabulary",
    licence="MIT",
    citation="Radford et al., 2019, openai/gpt-2",
    mirror_file="tiktoken/6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
)

Json = dict[str, Any]  # the content of a file in Hugging Face's format


class Tokenizer(ABC):
    """What every tokenizer offers. Two with equal digests give the same ids for the same text."""

    name: str
    vocab_size: int
    end_of_text: int | None = None
    has_unknown = True  # a token, or bytes, for characters outside the vocabulary

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hexadecimal sha256 of everything that decides the ids."""

    @abstractmethod
    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """(T,) ids. The names of special tokens inside `text` are plain text."""

    @abstractmethod
    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 bytes of `ids`; a prefix of ids may end inside a character."""

    @abstractmethod
    def token(self, index: int) -> str:
        """One token as a person reads it."""

    @abstractmethod
    def hugging_face(self) -> tuple[Json, Json]:
        """The contents of tokenizer.json and tokenizer_config.json."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def reads(self, text: str) -> bool:
        """Whether encode(text) has ids for all of it; False where an alphabet has only its own text's characters."""
        return True

    def unknown_in(self, text: str) -> Counter[str]:
        """How often each character of `text` that is outside the vocabulary occurs."""
        return Counter()

    def normalise(self, text: str) -> str:
        """`text` as the text that the tokenizer was made for was normalised."""
        return clean(text)

    def save(self, folder: Path) -> list[Path]:
        """Write the tokenizer's files durably; return their paths."""
        for name, content in zip((FILE, HF_FILE), self.hugging_face(), strict=True):
            durable.write_json(folder / name, content)
        return [folder / FILE, folder / HF_FILE]


class CharTokenizer(Tokenizer):
    """Each distinct character of the corpus, in code-point order, is a token; the last id is any other character."""

    name = "char"

    def __init__(self, alphabet: Iterable[str], closed: bool = False):
        """`closed`: as in nanoGPT, ids in the order given and none for any other character (UserError)."""
        self.alphabet = "".join(alphabet if closed else sorted(set(alphabet)))
        self.closed, self.has_unknown = closed, not closed
        self.unknown = len(self.alphabet)
        self.vocab_size = self.unknown + (not closed)
        self._codes = _code_points(self.alphabet)
        self._ids = np.full(int(self._codes.max(initial=0)) + 2, self.unknown, dtype=np.uint32)
        self._ids[self._codes] = np.arange(len(self.alphabet))

    @cached_property
    def digest(self) -> str:
        return durable.digest(["char", self.alphabet] + ["closed"] * self.closed)

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        if not self.reads(text):
            unread = next(character for character in text if character not in self.alphabet)
            raise UserError(f"the tokenizer has no id for the character {unread!r}")
        beyond = len(self._ids) - 1  # the last entry of the table is the unknown id
        return self._ids[np.minimum(_code_points(text), beyond)]

    def reads(self, text: str) -> bool:
        return not self.closed or set(self.alphabet).issuperset(text)

    def unknown_in(self, text: str) -> Counter[str]:
        outside = set(text).difference(self.alphabet)
        return Counter(character for character in text if character in outside) if outside else Counter()

    def normalise(self, text: str) -> str:
        """nanoGPT normalises nothing: what a closed alphabet has stays as it is."""
        return text if self.closed and self.reads(text) else clean(text)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return "".join(map(self.token, ids)).encode("utf-8")

    def token(self, index: int) -> str:
        return self.alphabet[index] if index < self.unknown else UNKNOWN_SHOWN

    def hugging_face(self) -> tuple[Json, Json]:
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        special = {} if self.closed else {"unk_token": UNKNOWN}
        vocabulary = {character: index for index, character in enumerate([*self.alphabet, *special.values()])}
        tokenizer = HuggingFaceTokenizer(models.WordLevel(vocabulary, **special))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
        return json.loads(tokenizer.to_str()), _hf_settings(**special)

    @classmethod
    def from_json(cls, content: Json) -> CharTokenizer:
        """Read what hugging_face() gave. Raises KeyError, ValueError."""
        vocabulary: dict[str, int] = dict(content["model"]["vocab"])
        closed = UNKNOWN not in vocabulary
        characters = sorted(vocabulary.keys() - {UNKNOWN}, key=vocabulary.__getitem__)
        tokenizer = cls(characters, closed)
        if vocabulary != {text: index for index, text in enumerate([*tokenizer.alphabet, *[UNKNOWN] * (not closed)])}:
            raise ValueError("its ids are not those of its characters in their order, one for each")
        return tokenizer


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
        ranks = {_unprintable(token): index for token, index in learner.get_vocab().items()}
        return cls(ranks, {END_OF_TEXT: len(ranks)})

    @classmethod
    def from_json(cls, content: Json) -> BPETokenizer:
        """Read a byte-level tokenizer.json, ours or a published one (GPT-2, Qwen). Raises KeyError, ValueError."""
        special = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        vocabulary = content["model"]["vocab"]
        ranks = {_unprintable(token): index for token, index in vocabulary.items() if token not in special}
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
        return json.loads(tokenizer.to_str()), _hf_settings(**names)

    def _merges(self) -> list[tuple[str, str]]:
        """The pair that each token was merged from: what is left of its bytes after all earlier merges."""
        merges = []
        for piece in sorted(self._ranks, key=self._ranks.__getitem__):
            if len(piece) > 1:
                parts = _merge(piece, self._ranks, self._ranks[piece])
                if len(parts) == 2:
                    merges.append((stand_ins(parts[0]), stand_ins(parts[1])))
        return merges


def gpt2_tokenizer(folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing) -> BPETokenizer:
    """GPT-2's tokens, from `folder`, a mirror or a public home. Raises UserError when there are none."""
    try:
        path, _ = obtain(GPT2_MERGES, folder, mirrors, notify)
    except Unobtainable as error:
        raise UserError(f"data.tokenizer: gpt2 needs a network or data.mirror: {error}; bpe needs neither") from error
    lines = path.read_text(encoding="utf-8").split("\n")[1:-1]  # the first line is a version
    # GPT-2 numbers the printable bytes first, then the others (openai/gpt-2 src/encoder.py, bytes_to_unicode).
    ranks = {bytes([byte]): index for index, byte in enumerate(_BYTE_ORDER)}
    for line in lines:
        first, second = line.split()
        ranks[_unprintable(first + second)] = len(ranks)
    return BPETokenizer(ranks, {END_OF_TEXT: len(ranks)}, name="gpt2")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`. Raises UserError when there is none, CorruptFileError when it is not one."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the folder of a tokenizer, a model or data")
    try:
        content = durable.read_json(path)
        if content["model"]["type"] == "WordLevel":
            return CharTokenizer.from_json(content)
        return BPETokenizer.from_json(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path} is not a tokenizer of characters or byte pairs ({error})") from error


def _hf_settings(**special: str) -> Json:
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    """(T,); a lone surrogate from a terminal is a code point like any other, and unknown."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)


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
_BYTE_ORDER = _SELF + [byte for byte in range(256) if byte not in _SELF]
_STAND_IN = {byte: chr(byte if byte in _SELF else 256 + at - len(_SELF)) for at, byte in enumerate(_BYTE_ORDER)}
_BYTE_OF = {character: byte for byte, character in _STAND_IN.items()}


def stand_ins(piece: bytes) -> str:
    """A printable character for each byte, as GPT-2 and all byte-level vocabularies write them."""
    return "".join(_STAND_IN[byte] for byte in piece)


def _unprintable(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)
