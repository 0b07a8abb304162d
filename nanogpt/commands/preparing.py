"""What `nanogpt prepare` does: a small text in memory, any other in pieces, nanoGPT's folder as it is."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from nanogpt import durable
from nanogpt.commands.arguments import print_note
from nanogpt.commands.progress import progress_lines
from nanogpt.config import DataConfig
from nanogpt.corpus import choosing, executors, nanogpt_format, preparation, tokenising
from nanogpt.data.shards import Manifest
from nanogpt.faults import UserError
from nanogpt.sources import catalogue, fetching, kinds, own
from nanogpt.sources.account import Account
from nanogpt.sources.formats.family import Wanted
from nanogpt.tokenizers.tokenizer import Tokenizer


def prepared(arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None) -> Manifest:
    """The data folder of SOURCE, or of several. `tokenizer`: one that exists already, not `config.tokenizer`."""
    with _alone_in(arguments.out):
        return _prepared(arguments, config, tokenizer)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Raise UserError where another prepare writes to the folder: each would take the other's files for its own."""
    was_there = out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    lock_file = out / ".preparing.lock"
    durable.unblock(lock_file, links=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"--out: another nanogpt prepare writes to {out}") from None
    try:
        yield
    finally:
        lock.release()
        if not was_there and set(os.listdir(out)) <= {lock_file.name}:  # nothing came of it
            shutil.rmtree(out)


def _prepared(arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None) -> Manifest:
    sources = [own.keep_standard_input(source, arguments.out / "standard-input") for source in arguments.sources]
    named = sources[0]
    in_pieces = len(sources) > 1 or arguments.chapter is not None or arguments.on is not None
    if not in_pieces and choosing.is_small(named, arguments.bytes):
        return _as_one(named, arguments, config, tokenizer)
    if len(sources) == 1 and kinds.kind_of(named) == "nanogpt":
        if in_pieces or arguments.tokenizer or tokenizer or arguments.bytes:
            raise UserError(
                f"SOURCE: {named} holds token ids of nanoGPT's, which are taken as they are: with --out alone"
            )
        return nanogpt_format.import_folder(own.own_path(named), arguments.out, config.mirrors, _warn)
    return _in_pieces(sources, arguments, config, tokenizer)


def _as_one(named: str, arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None) -> Manifest:
    """A small text, in memory."""
    text = arguments.out / "text"
    fetched = fetching.fetch(named, arguments.out / "downloads", config.mirrors, _warn, Wanted.of(config))
    source = catalogue.EMBEDDED if fetched.fallback_reason else own.name_of(named)
    account, normalise = Account(), tokenizer.normalise if tokenizer else None
    statistics = preparation.prepare(fetched.documents, text, config, normalise, account)
    for remark in [*fetched.remarks(), *account.repairs(), *preparation.remarks(statistics)]:
        print_note(remark)
    if tokenizer is not None:
        return tokenising.tokenise_with(tokenizer, text, arguments.out, arguments.allow_unknown, _warn, source)
    return tokenising.tokenise(text, config.tokenizer, arguments.out, config, _warn, source)


def _in_pieces(
    sources: list[str], arguments: argparse.Namespace, config: DataConfig, tokenizer: Tokenizer | None
) -> Manifest:
    """Texts of any size, in several processes. What a start before did of them is not done again."""
    from nanogpt.corpus import pipeline  # pyarrow and rensa: 0.3 s, which a small text does without

    names = _names(sources)
    out, text, source = arguments.out, arguments.out / "text", ", ".join(names)
    workers = executors.Workers(arguments.workers or choosing.sensible_workers(), arguments.on)
    executors.check(workers, out)
    with progress_lines(f"looking for the text of {source}") as show:

        def report(what: str, done: int, of: int) -> None:
            show(f"{what}: {done:,} of {of:,}")

        gathered = [
            choosing.gather(
                named, config, out / "downloads", arguments.bytes, _warn, lambda progress: show(str(progress))
            )
            for named in sources
        ]
        pieces = [piece for fetched, _ in gathered for piece in fetched.pieces]
        statistics = pipeline.prepare(pieces, text, config, tokenizer, workers, report=report)
        chapter = arguments.chapter
        if tokenizer is not None:
            manifest = tokenising.tokenise_with(
                tokenizer, text, out, arguments.allow_unknown, _warn, source, workers, report=report, chapter=chapter
            )
        else:
            manifest = tokenising.tokenise(
                text, config.tokenizer, out, config, _warn, source, workers, report=report, chapter=chapter
            )
    pipeline.discard(text)
    of_sources = [[*filter(None, [fetched.shortfall]), *others.remarks()] for fetched, others in gathered]
    for remark in [*chain(*of_sources), *preparation.remarks(statistics)]:
        print_note(remark)
    return manifest


def _names(sources: list[str]) -> list[str]:
    """What the sources are called. Raises UserError where two have one name."""
    names = [own.name_of(source) for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"SOURCE: two are called {twice[0]}; a mixture tells its texts apart by name")
    return names


def _warn(fault: str, remedy: str) -> None:
    print_note(f"{fault}; {remedy}")
