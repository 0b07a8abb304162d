"""The splits of a text as token ids in a data folder: with a new tokenizer, or with an existing one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from nanogpt import durable
from nanogpt.config import DataConfig
from nanogpt.corpus.executors import HERE, Report, Workers, no_report
from nanogpt.data.shards import MOST_UNKNOWN, Manifest, write_folder
from nanogpt.data.texts import PIECES, SPLITS, STATISTICS, read_split
from nanogpt.faults import UserError
from nanogpt.results.text import TokenSplit
from nanogpt.sources.part import Notify, say_nothing
from nanogpt.tokenizers.making import OF_THE_WHOLE_TEXT, make_tokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.units import percent


def tokenise(
    text_folder: Path,
    kind: str,
    out_folder: Path,
    config: DataConfig,
    notify: Notify = say_nothing,
    source: str | None = None,
    workers: Workers = HERE,
    pulse: Callable[[], None] = lambda: None,
    report: Report = no_report,
    chapter: int | None = None,
) -> Manifest:
    """Tokenise what `preparation.prepare` or `pipeline.prepare` wrote into `text_folder`; return the manifest, which is
    written last.

    The alphabet is the whole corpus's, so that no split has an unknown character; byte pairs are learned from train
    alone, of a large text from a sample. `source` is the name of the text; the other arguments are pipeline.tokenise's.
    Raises UserError for a tokenizer that is unknown or cannot be obtained.
    """
    if _is_large(text_folder):
        from nanogpt.corpus import pipeline

        decisions = pipeline.decisions_of(text_folder)
        learned = pipeline.alphabet(text_folder) if kind in OF_THE_WHOLE_TEXT else pipeline.sample(decisions)
        tokenizer = make_tokenizer(kind, learned, out_folder, config, notify)
        return pipeline.tokenise(
            text_folder, tokenizer, out_folder, source, workers=workers, chapter=chapter, pulse=pulse, report=report
        )
    texts = {split: read_split(text_folder, split) for split in SPLITS}
    sample = texts.values() if kind in OF_THE_WHOLE_TEXT else [texts["train"]]
    tokenizer = make_tokenizer(kind, sample, out_folder, config, notify)
    return _write_texts(text_folder, texts, tokenizer, out_folder, source=source)


def tokenise_with(
    tokenizer: Tokenizer,
    text_folder: Path,
    out_folder: Path,
    allow_unknown: bool,
    notify: Notify,
    source: str | None,
    workers: Workers = HERE,
    report: Report = no_report,
    chapter: int | None = None,
) -> Manifest:
    """tokenise() with an existing tokenizer, such as that of a model to fine-tune.

    `notify` gets the share of characters outside its vocabulary: of a large text, of its sample. Raises UserError when
    that is more than MOST_UNKNOWN and not allowed, or when the tokenizer has no token for them.
    """
    texts = {split: read_split(text_folder, split) for split in SPLITS}
    unknown = tokenizer.unknown_in("".join(texts.values()))
    _judge_unknown(unknown, sum(map(len, texts.values())), tokenizer, allow_unknown, notify)
    if _is_large(text_folder):
        from nanogpt.corpus import pipeline

        look = not tokenizer.reads(pipeline.alphabet(text_folder))
        return pipeline.tokenise(
            text_folder, tokenizer, out_folder, source, look, workers=workers, chapter=chapter, report=report
        )
    return _write_texts(text_folder, texts, tokenizer, out_folder, unknown.total(), source)


def _is_large(text_folder: Path) -> bool:
    """Whether the text lies in pieces. pipeline is imported there only: pyarrow and rensa take 0.3 s."""
    return (text_folder / PIECES).is_dir()


def _judge_unknown(
    unknown: Counter[str], characters: int, tokenizer: Tokenizer, allow_unknown: bool, notify: Notify
) -> None:
    """Raise UserError where too many of `characters` are outside the vocabulary, or the tokenizer has no token for
    them; notify otherwise."""
    if unknown:
        share = unknown.total() / characters
        commonest = ", ".join(f"{character!r} ({count:,})" for character, count in unknown.most_common(5))
        found = (
            f"{percent(share, 1)} of the characters are outside the tokenizer's vocabulary, the commonest: {commonest}"
        )
        if not tokenizer.has_unknown:
            raise UserError(f"data.source: {found}; it has no token for them")
        if share > MOST_UNKNOWN and not allow_unknown:
            raise UserError(f"data.source: {found}; more than {percent(MOST_UNKNOWN, 0)} needs --allow-unknown")
        notify(found, "each becomes the token for unknown characters, which the model was never trained on")


def _write_texts(
    text_folder: Path,
    texts: dict[str, str],
    tokenizer: Tokenizer,
    out_folder: Path,
    unknown: int = 0,
    source: str | None = None,
) -> Manifest:
    """The token files of `texts` and the manifest, which is returned. Raises UserError."""
    splits = {}
    for split, text in texts.items():
        tokens = tokenizer.encode(text)
        splits[split] = tokens, TokenSplit(len(tokens), len(text.encode("utf-8")), len(text))
    source_sha256 = durable.read_json(text_folder / STATISTICS)["sha256"]
    return write_folder(out_folder, tokenizer, splits, source_sha256, unknown, source)
