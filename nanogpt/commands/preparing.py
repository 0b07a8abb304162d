"""What `nanogpt prepare` does: a small text in memory, any other in pieces, nanoGPT's folder as it is."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import print_note
from nanogpt.commands.progress import progress_lines
from nanogpt.config import DataConfig
from nanogpt.corpus import choosing, executors, nanogpt_format, preparation, tokenising
from nanogpt.data.shards import Manifest
from nanogpt.sources import catalogue, fetching, kinds, own
from nanogpt.sources.account import Account
from nanogpt.sources.formats.family import Wanted
from nanogpt.tokenizers.tokenizer import Tokenizer


def prepared(arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None) -> Manifest:
    """The data folder of SOURCE. `tokenizer`: one that exists already, in place of `config.tokenizer`."""
    named = own.keep_standard_input(arguments.source, arguments.out / "standard-input")
    if choosing.is_small(named, arguments.bytes):
        return _as_one(named, arguments, config, tokenizer)
    if kinds.kind_of(named) == "nanogpt":
        return nanogpt_format.import_folder(own.own_path(named), arguments.out, config.mirrors, _warn)
    return _in_pieces(named, arguments, config, tokenizer)


def _as_one(named: str, arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None) -> Manifest:
    """A small text, in memory."""
    text = arguments.out / "text"
    wanted = Wanted(config.encoding, config.column, config.repair)
    fetched = fetching.fetch(named, arguments.out / "downloads", config.mirrors, _warn, wanted)
    source = catalogue.EMBEDDED if fetched.fallback_reason else own.name_of(named)
    account, normalise = Account(), tokenizer.normalise if tokenizer else None
    statistics = preparation.prepare(fetched.documents, text, config, normalise, account)
    for remark in [*fetched.remarks(), *account.remarks(), *preparation.remarks(statistics)]:
        print_note(remark)
    if tokenizer is not None:
        return tokenising.tokenise_with(tokenizer, text, arguments.out, arguments.allow_unknown, _warn, source)
    return tokenising.tokenise(text, config.tokenizer, arguments.out, config, _warn, source)


def _in_pieces(named: str, arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None) -> Manifest:
    """A text of any size, in several processes. What a start before did of it is not done again."""
    from nanogpt.corpus import pipeline  # pyarrow and rensa: 0.3 s, which a small text does without

    out, text, source = arguments.out, arguments.out / "text", own.name_of(named)
    workers = executors.Workers(arguments.workers or choosing.sensible_workers(), arguments.on)
    executors.check(workers, out)
    with progress_lines(f"looking for the text of {source}") as show:

        def report(what: str, done: int, of: int) -> None:
            show(f"{what}: {done:,} of {of:,}")

        fetched, others = choosing.gather(
            named, config, out / "downloads", arguments.bytes, _warn, lambda progress: show(str(progress))
        )
        statistics = pipeline.prepare(fetched.pieces, text, config, tokenizer, workers, report=report)
        if tokenizer is not None:
            unknown = arguments.allow_unknown
            manifest = tokenising.tokenise_with(tokenizer, text, out, unknown, _warn, source, workers, report=report)
        else:
            kind = config.tokenizer
            manifest = tokenising.tokenise(text, kind, out, config, _warn, source, workers, report=report)
    pipeline.discard(text)
    shortfall = [fetched.shortfall] if fetched.shortfall else []
    for remark in [*shortfall, *others.remarks(), *preparation.remarks(statistics)]:
        print_note(remark)
    return manifest


def _warn(fault: str, remedy: str) -> None:
    print_note(f"{fault}; {remedy}")
