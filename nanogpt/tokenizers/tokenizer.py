"""What every tokenizer offers, and its files: tokenizer.json in Hugging Face's format, which transformers, vLLM and
mlx-lm open too; llama.cpp has it from the GGUF export.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.sources.cleaning import clean

FILE = "tokenizer.json"
HF_FILE = "tokenizer_config.json"
UNKNOWN = "<unknown>"
UNKNOWN_SHOWN = "\ufffd"
END_OF_TEXT = "<|endoftext|>"
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


def hf_settings(**special: str) -> Json:
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}


def end_of(special: Mapping[str, int], settings: Json) -> str | None:
    """Which of the `special` tokens ends a text: END_OF_TEXT, else what tokenizer_config.json, `settings`, says."""
    if END_OF_TEXT in special:
        return END_OF_TEXT
    stated = settings.get("eos_token")
    named = stated.get("content") if isinstance(stated, dict) else stated
    return named if isinstance(named, str) and named in special else None


def without_surrogates(text: str) -> str:
    """`text` with U+FFFD in place of each lone surrogate, as a terminal gives them: they have no UTF-8."""
    return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")
