"""GPT-2's published vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanogpt.faults import UserError
from nanogpt.sources.catalogue import Entry
from nanogpt.sources.fetching import obtain
from nanogpt.sources.part import Notify, Unobtainable, say_nothing
from nanogpt.tokenizers.byte_pairs import BYTE_ORDER, BPETokenizer, unprintable
from nanogpt.tokenizers.tokenizer import END_OF_TEXT

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


def gpt2_tokenizer(folder: Path, mirrors: Sequence[str] = (), notify: Notify = say_nothing) -> BPETokenizer:
    """GPT-2's tokens, from `folder`, a mirror or a public home. Raises UserError when there are none."""
    try:
        path, _ = obtain(GPT2_MERGES, folder, mirrors, notify)
    except Unobtainable as error:
        raise UserError(f"data.tokenizer: gpt2 needs a network or data.mirror: {error}; bpe needs neither") from error
    lines = path.read_text(encoding="utf-8").split("\n")[1:-1]  # the first line is a version
    # GPT-2 numbers the printable bytes first, then the others (openai/gpt-2 src/encoder.py, bytes_to_unicode).
    ranks = {bytes([byte]): index for index, byte in enumerate(BYTE_ORDER)}
    for line in lines:
        first, second = line.split()
        ranks[unprintable(first + second)] = len(ranks)
    return BPETokenizer(ranks, {END_OF_TEXT: len(ranks)}, name="gpt2")
