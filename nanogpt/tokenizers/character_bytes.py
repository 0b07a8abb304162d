"""Each distinct character of a text is a token, and so is each byte: for characters that the text did not have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nanogpt import durable
from nanogpt.tokenizers.characters import code_points
from nanogpt.tokenizers.tokenizer import END_OF_TEXT, Json, Tokenizer, hf_settings

BYTE_NAMES = [f"<0x{byte:02X}>" for byte in range(256)]  # as SentencePiece writes them, and who learned from it


class CharBytesTokenizer(Tokenizer):
    """The characters of an alphabet in code-point order, then the 256 bytes, then the end of a text.

    A character outside the alphabet is the bytes of its UTF-8, so that every text comes back as it was.
    """

    name = "char_bytes"

    def __init__(self, alphabet: Iterable[str]):
        self.alphabet = "".join(sorted(set(alphabet)))
        self.first_byte = len(self.alphabet)
        self.end_of_text = self.first_byte + 256
        self.vocab_size = self.end_of_text + 1
        self._codes = code_points(self.alphabet)
        self._ids = np.full(int(self._codes.max(initial=0)) + 2, self.first_byte, dtype=np.uint32)  # the last: no id
        self._ids[self._codes] = np.arange(self.first_byte)
        characters = [character.encode("utf-8") for character in self.alphabet]
        self._bytes = [*characters, *(bytes([byte]) for byte in range(256)), END_OF_TEXT.encode()]

    @cached_property
    def digest(self) -> str:
        return durable.digest(["char_bytes", self.alphabet])

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        codes = code_points(text)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        unseen = ids == self.first_byte
        if not unseen.any():
            return ids
        found = codes[unseen]
        found[(found >= 0xD800) & (found < 0xE000)] = 0xFFFD  # a lone surrogate has no UTF-8
        tokens = np.ones(len(codes), np.int64)
        tokens[unseen] += (found >= 0x80).astype(np.int64) + (found >= 0x800) + (found >= 0x10000)  # bytes of UTF-8
        written = np.repeat(ids, tokens)
        written[np.repeat(unseen, tokens)] += np.frombuffer(found.tobytes().decode("utf-32-le").encode(), np.uint8)
        return written

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes[index] for index in ids if index < self.vocab_size)

    def token(self, index: int) -> str:
        return self._bytes[index].decode("utf-8", errors="replace") if index < self.vocab_size else ""

    def hugging_face(self) -> tuple[Json, Json]:
        from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as HuggingFaceTokenizer

        vocabulary = {name: index for index, name in enumerate([*self.alphabet, *BYTE_NAMES])}
        tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, [], byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
        return json.loads(tokenizer.to_str()), hf_settings(eos_token=END_OF_TEXT)

    @classmethod
    def from_json(cls, content: Json) -> CharBytesTokenizer:
        """Read what hugging_face() gave. Raises KeyError, ValueError."""
        vocabulary: dict[str, int] = dict(content["model"]["vocab"])
        tokenizer = cls(vocabulary.keys() - set(BYTE_NAMES))
        expected = {name: index for index, name in enumerate([*tokenizer.alphabet, *BYTE_NAMES])}
        if vocabulary != expected or not is_char_bytes(content):
            raise ValueError("its ids are not those of its characters and bytes in their order, one for each")
        return tokenizer


def is_char_bytes(content: Json) -> bool:
    """Whether a tokenizer.json is of this kind."""
    model = content["model"]
    ends = [token["content"] for token in content.get("added_tokens", [])]
    return model["type"] == "BPE" and model.get("byte_fallback") and not model["merges"] and ends == [END_OF_TEXT]
