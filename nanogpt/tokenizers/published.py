"""OpenAI's published vocabularies, under the MIT licence: GPT-2's, and those that tiktoken calls cl100k_base (GPT-4's)
and o200k_base (GPT-4o's)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanogpt.faults import UserError
from nanogpt.sources.catalogue import PublicFile
from nanogpt.sources.fetching import obtain
from nanogpt.sources.part import Notify, Unobtainable, say_nothing
from nanogpt.tokenizers.byte_pairs import BYTE_ORDER, BPETokenizer, unprintable
from nanogpt.tokenizers.patterns import CL100K_PATTERN, O200K_PATTERN
from nanogpt.tokenizers.tokenizer import END_OF_TEXT

_HOME = "https://openaipublic.blob.core.windows.net"
# A mirror keeps them as tiktoken's own cache does: under the sha1 of their address.
GPT2_MERGES = PublicFile(
    name="the GPT-2 vocabulary (vocab.bpe)",
    file="gpt2-vocab.bpe",
    # The second: the same merges in Hugging Face's GPT-2; not reached where this was written, the sha256 decides.
    homes=(
        f"{_HOME}/gpt-2/encodings/main/vocab.bpe",
        "https://huggingface.co/openai-community/gpt2/resolve/main/merges.txt",
    ),
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    bytes=456_318,
    mirror_file="tiktoken/6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
)


@dataclass(frozen=True)
class Published:
    """A vocabulary of tiktoken's: a line a token, in Base64, with its id."""

    ranks: PublicFile
    pattern: str
    special: dict[str, int]


PUBLISHED = {
    "cl100k_base": Published(
        PublicFile(
            name="the vocabulary cl100k_base",
            file="cl100k_base.tiktoken",
            homes=(f"{_HOME}/encodings/cl100k_base.tiktoken",),
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            bytes=1_681_126,
            mirror_file="tiktoken/9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        ),
        CL100K_PATTERN,
        {
            END_OF_TEXT: 100_257,
            "<|fim_prefix|>": 100_258,
            "<|fim_middle|>": 100_259,
            "<|fim_suffix|>": 100_260,
            "<|endofprompt|>": 100_276,
        },
    ),
    "o200k_base": Published(
        PublicFile(
            name="the vocabulary o200k_base",
            file="o200k_base.tiktoken",
            homes=(f"{_HOME}/encodings/o200k_base.tiktoken",),
            sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            bytes=3_613_922,
            mirror_file="tiktoken/fb374d419588a4632f3f557e76b4b70aebbca790",
        ),
        O200K_PATTERN,
        {END_OF_TEXT: 199_999, "<|endofprompt|>": 200_018},
    ),
}


def gpt2_tokenizer(folder: Path, mirrors: Sequence[str], notify: Notify = say_nothing) -> BPETokenizer:
    """GPT-2's tokens, from `folder`, a mirror or a public home. Raises UserError when there are none."""
    path = _obtain("gpt2", GPT2_MERGES, folder, mirrors, notify)
    lines = path.read_text(encoding="utf-8").split("\n")[1:-1]  # the first line is a version
    # GPT-2 numbers the printable bytes first, then the others (openai/gpt-2 src/encoder.py, bytes_to_unicode).
    ranks = {bytes([byte]): index for index, byte in enumerate(BYTE_ORDER)}
    for line in lines:
        first, second = line.split()
        ranks[unprintable(first + second)] = len(ranks)
    return BPETokenizer(ranks, {END_OF_TEXT: len(ranks)})


def published_tokenizer(name: str, folder: Path, mirrors: Sequence[str], notify: Notify) -> BPETokenizer:
    """One of PUBLISHED, as gpt2_tokenizer()."""
    found = PUBLISHED[name]
    path = _obtain(name, found.ranks, folder, mirrors, notify)
    lines = (line.split() for line in path.read_bytes().splitlines())
    return BPETokenizer({base64.b64decode(token): int(rank) for token, rank in lines}, found.special, found.pattern)


def _obtain(name: str, entry: PublicFile, folder: Path, mirrors: Sequence[str], notify: Notify) -> Path:
    try:
        path, _ = obtain(entry, folder, mirrors, notify)
    except Unobtainable as error:
        raise UserError(f"data.tokenizer: {name} needs a network or data.mirror: {error}; bpe needs neither") from error
    return path
