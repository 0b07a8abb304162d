"""The texts that have a name here: what each is, whose, how large, and which budget it serves.

Sizes and digests are those that the sets' own pages or several public copies of them state; None where none was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nanogpt.sources.hub_address import HubAddress

EMBEDDED = "embedded"
UNKNOWN = "unknown"  # the name of a text that nobody recorded


@dataclass(frozen=True)
class PublicFile:
    """A file that can be downloaded, `bytes` long. `mirror_file` is its path below a mirror."""

    name: str
    file: str
    homes: tuple[str, ...]  # public addresses of the same bytes, the best first
    sha256: str
    bytes: int
    mirror_file: str = ""

    def at(self, place: str) -> str:
        """Its address at a mirror or a home."""
        return place if place in self.homes else f"{place.rstrip('/')}/{self.mirror_file or self.file}"


Split = Literal["contiguous", "documents", "published"]
Budget = Literal["minutes", "hours", "a night"]


@dataclass(frozen=True)
class Source:
    """A text that has a name: one file, or a data set of a hub of which as much is fetched as is asked for.

    `bytes`: of its text to train on, as UTF-8; `is_estimate`: nobody states them, and they are computed from its
    tokens. `split`: contiguous, by the digest of each document, or as its publishers divided it. `digests`: sha256 by
    path within the data set, of those of its files for which one is known.
    """

    name: str
    description: str
    licence: str
    citation: str
    page: str  # public address
    bytes: int
    download_bytes: int
    split: Split
    tokenizer: Literal["char", "bpe", "gpt2"]  # that suits it
    budget: Budget  # of a run that it serves
    documents: int | None = None
    bytes_per_gpt2_token: float | None = None
    alphabet: int | None = None  # distinct characters; None: thousands, or not known
    language: str | None = "en"  # ISO 639-1
    is_estimate: bool = False
    file: PublicFile | None = None
    hub: HubAddress | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str | None:
        """Of the whole text, where it is one file."""
        return self.file.sha256 if self.file else None


TINY_SHAKESPEARE = PublicFile(
    name="tiny_shakespeare",
    file="tinyshakespeare.txt",
    homes=(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        # The copy of TensorFlow's tutorials. It could not be reached where this was written: the sha256 decides.
        "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
    ),
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    bytes=1_115_394,
)
_WIKITEXT = "Merity et al., Pointer Sentinel Mixture Models, 2016, https://arxiv.org/abs/1609.07843"
_WIKITEXT_PAGE = "https://huggingface.co/datasets/Salesforce/wikitext"

_SOURCES = (
    Source(
        name="tiny_shakespeare",
        description="40,000 lines of Shakespeare's plays",
        licence="public domain",
        citation="Andrej Karpathy, char-rnn, 2015, https://github.com/karpathy/char-rnn",
        page=TINY_SHAKESPEARE.homes[0],
        bytes=TINY_SHAKESPEARE.bytes,
        download_bytes=TINY_SHAKESPEARE.bytes,
        split="contiguous",
        tokenizer="char",
        budget="minutes",
        documents=1,
        bytes_per_gpt2_token=3.30,  # 338,025 tokens (nanoGPT, data/shakespeare/readme.md)
        alphabet=65,
        file=TINY_SHAKESPEARE,
    ),
    Source(
        name="wikitext_2",
        description="600 good and featured articles of Wikipedia, raw",
        licence="CC BY-SA 3.0 and GFDL",
        citation=_WIKITEXT,
        page=_WIKITEXT_PAGE,
        bytes=11_061_717,
        download_bytes=7_747_362,
        split="published",
        tokenizer="bpe",
        budget="minutes",
        documents=600,
        hub=HubAddress("Salesforce", "wikitext", config="wikitext-2-raw-v1", rows="wikitext"),
        digests={
            "wikitext-2-raw-v1/train-00000-of-00001.parquet": (
                "e83889baabc497075506f91975be5fac0d45c5290b6b20582c8cd1e853d0c9f7"
            ),
        },
    ),
    Source(
        name="wikitext_103",
        description="28,475 good and featured articles of Wikipedia, raw",
        licence="CC BY-SA 3.0 and GFDL",
        citation=_WIKITEXT,
        page=_WIKITEXT_PAGE,
        bytes=546_500_949,
        download_bytes=315_466_397,
        split="published",
        tokenizer="bpe",
        budget="hours",
        documents=28_475,
        hub=HubAddress("Salesforce", "wikitext", config="wikitext-103-raw-v1", rows="wikitext"),
        digests={
            "wikitext-103-raw-v1/train-00000-of-00002.parquet": (
                "74da360f23826045b3e6ac6375411fdb15f003030aa74f2596ed08b857cb9212"
            ),
            "wikitext-103-raw-v1/train-00001-of-00002.parquet": (
                "ba090ac30dbf5461e8dcbdd1a1b8e6f3cf9c2c756d64f0c1220450acd514f720"
            ),
            "wikitext-103-raw-v1/validation-00000-of-00001.parquet": (
                "204929b7ff9d6184953f867dedb860e40aa69c078fc1e54b3baaa8fb28511c4c"
            ),
            "wikitext-103-raw-v1/test-00000-of-00001.parquet": (
                "5f1bea067869d04849c0f975a2b29c4ff47d867f484f5010ea5e861eab246d91"
            ),
        },
    ),
    Source(
        name="tinystories",
        description="2,119,719 short stories in words that small children know, written by GPT-3.5 and GPT-4",
        licence="CDLA-Sharing-1.0",
        citation="Eldan and Li, TinyStories, 2023, https://arxiv.org/abs/2305.07759",
        page="https://huggingface.co/datasets/roneneldan/TinyStories",
        bytes=1_911_420_483,
        download_bytes=1_000_775_442,
        split="documents",
        tokenizer="bpe",
        budget="hours",
        documents=2_119_719,
        hub=HubAddress("roneneldan", "TinyStories"),
    ),
    Source(
        name="openwebtext",
        description="8,013,769 web pages that people linked to, as GPT-2 learned from",
        licence="CC0-1.0 (the packaging; the pages have their own)",
        citation="Gokaslan and Cohen, OpenWebText Corpus, 2019, https://skylion007.github.io/OpenWebTextCorpus",
        page="https://huggingface.co/datasets/Skylion007/openwebtext",
        bytes=39_769_491_688,
        download_bytes=24_193_092_408,
        split="documents",
        tokenizer="gpt2",
        budget="a night",
        documents=8_013_769,
        bytes_per_gpt2_token=4.40,  # 9,040,017,095 tokens (nanoGPT, data/openwebtext/readme.md)
        hub=HubAddress("Skylion007", "openwebtext"),
        digests={
            "plain_text/train-00000-of-00080.parquet": (
                "caed9f4b7053d7cd4d1a13ce9ec9224d84a3bba1f11579193562a7e31ebe656e"
            ),
        },
    ),
    Source(
        name="fineweb_edu",
        description="web pages that teach, 10 billion tokens drawn from FineWeb-Edu",
        licence="ODC-By 1.0, and Common Crawl's terms of use",
        citation="Penedo et al., The FineWeb Datasets, 2024, https://arxiv.org/abs/2406.17557",
        page="https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
        bytes=45_000_000_000,  # 10 billion tokens of GPT-2 at 4.5 bytes each
        is_estimate=True,
        download_bytes=28_500_000_000,  # 13 files of about 2.15 GB and one of 540,632,672 bytes
        split="documents",
        tokenizer="gpt2",
        budget="a night",
        documents=9_672_101,
        bytes_per_gpt2_token=4.5,
        hub=HubAddress("HuggingFaceFW", "fineweb-edu", config="sample-10BT"),
        digests={"sample/10BT/013_00000.parquet": "b393f51fefab26cd6f4c8f65707c1924f6666c4961a0ebebe04bb57f7ec832de"},
    ),
)
CATALOGUE: dict[str, Source] = {source.name: source for source in _SOURCES}


def licence(source: str) -> str | None:
    """The licence of a source; None for a person's own text, whose licence only they know."""
    if source == EMBEDDED:
        return "PSF-2.0 (Python's own documentation); of more than that: embedded-licences.json, next to it"
    return CATALOGUE[source].licence if source in CATALOGUE else None


def language(source: str) -> str | None:
    """The language of a source in ISO 639-1; None for a person's own text."""
    if source == EMBEDDED:
        return "en"
    return CATALOGUE[source].language if source in CATALOGUE else None


def recorded_name(of_data: str | None, stated: str | None, text_sha256: str) -> str:
    """What a training calls its text: what its data says, else its configuration, else what the content is known as.

    `stated`: None where the configuration leaves it out. A name of the catalogue counts for its own content alone.
    """
    if of_data is not None:
        return of_data
    if stated is not None and stated != UNKNOWN and stated not in CATALOGUE:
        return stated
    return next((known.name for known in CATALOGUE.values() if known.sha256 == text_sha256), UNKNOWN)
