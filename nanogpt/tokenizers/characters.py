"""Each distinct character of a text is a token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.sources.cleaning import clean
from nanogpt.tokenizers.tokenizer import UNKNOWN, UNKNOWN_SHOWN, Json, Tokenizer, hf_settings


class CharTokenizer(Tokenizer):
    """Each distinct character of the corpus, in code-point order, is a token; the last id is any other character."""

    name = "char"

    def __init__(self, alphabet: Iterable[str], closed: bool = False):
        """`closed`: as in nanoGPT, ids in the order given and none for any other character (UserError)."""
        self.alphabet = "".join(alphabet if closed else sorted(set(alphabet)))
        self.closed, self.has_unknown = closed, not closed
        self.unknown = len(self.alphabet)
        self.vocab_size = self.unknown + (not closed)
        self._codes = code_points(self.alphabet)
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
        return self._ids[np.minimum(code_points(text), beyond)]

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
        return json.loads(tokenizer.to_str()), hf_settings(**special)

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


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """(T,); a lone surrogate from a terminal is a code point like any other, and unknown."""
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
