"""Any tokenizer.json in Hugging Face's format, run by their library, `tokenizers`."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as HuggingFaceTokenizer

from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.tokenizers.byte_pairs import BYTE_STAND_INS, pieces_of, unprintable
from nanogpt.tokenizers.patterns import BLANK
from nanogpt.tokenizers.tokenizer import Json, Tokenizer, end_of, hf_settings, without_surrogates

# Characters, and pieces at once on as many threads: what the library keeps of one is 100 times as large.
PIECE, AT_ONCE = 1 << 17, 4
_BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")
_CONTROL = re.compile(r"<.*>|\[.*\]", re.DOTALL)  # such as <|im_start|>, <tool_call>, [MASK]


class LibraryTokenizer(Tokenizer):
    """What `tokenizers` makes of a tokenizer.json: SentencePiece's, Unigram, and byte pairs of other rules."""

    name = "tokenizer.json"

    def __init__(self, content: Json, settings: Json):
        """`content`: as in_parts() gives it. Raises ValueError for what is no such file."""
        self._content = content
        with _explained("tokenizers cannot read it", ValueError):
            self._library = HuggingFaceTokenizer.from_str(json.dumps(self._content))
        self._library.encode_special_tokens = True
        added = {token["content"]: token["id"] for token in self._content.get("added_tokens", []) if token["special"]}
        self._end = end_of(added, settings)
        self.end_of_text = None if self._end is None else added[self._end]
        self.vocab_size = 1 + max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)
        if not self.vocab_size:
            raise ValueError("it has no tokens")

    @cached_property
    def digest(self) -> str:
        return durable.digest(["hf", self._content])

    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """Raises UserError for a text that the rules of the file cannot take."""
        pieces, found = pieces_of([without_surrogates(text)], PIECE), [np.zeros(0, np.uint32)]
        while batch := list(islice(pieces, AT_ONCE)):
            with _explained("data.tokenizer: tokenizers cannot use this tokenizer.json", UserError):
                encoded = self._library.encode_batch_fast(batch, add_special_tokens=False)
            found += [np.array(piece.ids, np.uint32) for piece in encoded]
        return np.concatenate(found)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._bytes.get(int(index), b"") for index in ids)

    def token(self, index: int) -> str:
        return self._bytes.get(index, b"").decode("utf-8", errors="replace")

    def hugging_face(self) -> tuple[Json, Json]:
        return copy.deepcopy(self._content), hf_settings(**({"eos_token": self._end} if self._end is not None else {}))

    @cached_property
    def _bytes(self) -> dict[int, bytes]:
        """{id: what it stands for}, by the kind of decoder that the file names."""
        decoder = json.dumps(self._content.get("decoder"), ensure_ascii=False)
        added = {token["content"] for token in self._content.get("added_tokens", [])}
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        return {
            index: text.encode("utf-8") if text in added else _meaning(text, decoder)
            for text, index in vocabulary.items()
        }


@contextmanager
def _explained(what: str, kind: type[Exception]) -> Iterator[None]:
    """Raise what the library raises as one of `kind`: Exception, or for some files PanicException, which is none."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise kind(f"{what}: {error}") from error


def _meaning(token: str, decoder: str) -> bytes:
    """The bytes of a token by a decoder, as JSON: ByteLevel has a stand-in for each, SentencePiece one for a blank."""
    if '"ByteLevel"' in decoder:
        return unprintable(token)
    if '"ByteFallback"' in decoder and (byte := _BYTE_NAME.fullmatch(token)):
        return bytes([int(byte[1], 16)])
    return (token.replace(BLANK, " ") if BLANK in decoder else token).encode("utf-8")


def in_parts(content: Json) -> Json:
    """The content of a tokenizer.json by which a text in parts has the ids of its parts, and comes back.

    Four things are taken out: the blank before a text, tokens put around a text, dropout, padding and truncation.
    """
    model = {key: None if key == "dropout" else value for key, value in content["model"].items()}
    steps = {name: _step_in_parts(content.get(name)) for name in ("normalizer", "pre_tokenizer", "decoder")}
    return {**content, **steps, "model": model, "post_processor": None, "truncation": None, "padding": None}


def _step_in_parts(step: Json | None) -> Json | None:
    """A normalizer, pre-tokenizer or decoder that puts no blank before a text and takes none from it."""
    if step is None or step["type"] == "Prepend" or (step["type"] == "Strip" and "content" in step):
        return None
    changed = {**step, **({"add_prefix_space": False} if "add_prefix_space" in step else {})}
    if "prepend_scheme" in step:
        changed["prepend_scheme"] = "never"
    for name in ("normalizers", "pretokenizers", "decoders"):
        if name in step:
            changed[name] = [inner for inner in map(_step_in_parts, step[name]) if inner is not None]
    return changed


def is_byte_pairs(content: Json) -> bool:
    """Whether tiktoken gives the ids of this tokenizer.json: byte pairs over whole bytes, merged in the order of ids.

    Each token but the bytes has to be one that its merges make, or one that is looked up whole. A text is in composed
    form here (cleaning.clean), so a normalizer to NFC changes nothing; names in brackets are special whatever they say.
    """
    model, normalizer = content["model"], content.get("normalizer") or {"type": "NFC"}
    if model["type"] != "BPE" or normalizer["type"] != "NFC" or not _splits_bytes(content.get("pre_tokenizer")):
        return False
    if model.get("byte_fallback") or model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        return False
    added = content.get("added_tokens", [])
    if not all(token["special"] or _CONTROL.fullmatch(token["content"]) for token in added):
        return False
    names = {token["content"] for token in added}
    vocabulary = {text: index for text, index in model["vocab"].items() if text not in names}
    made = ["".join(pair if isinstance(pair, list) else pair.split(" ")) for pair in model["merges"]]
    ids = [vocabulary.get(token, -1) for token in made]
    return (
        len({*vocabulary} & {*BYTE_STAND_INS}) == 256
        and -1 not in ids
        and all(before <= after for before, after in pairwise(ids))
        and (bool(model.get("ignore_merges")) or len({*made}) == len(vocabulary) - 256)
    )


def _splits_bytes(pre_tokenizer: Json | None) -> bool:
    """Whether text is split by one expression, GPT-2's or another, and then into stand-ins for bytes."""
    match (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer]):
        case [{"type": "ByteLevel", "add_prefix_space": False, **rest}]:
            return bool(rest.get("use_regex", True))
        case [
            {"type": "Split", "pattern": {"Regex": _}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return True
    return False
