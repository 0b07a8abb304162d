"""Phase 4: text is fetched, verified, cleaned, split and tokenised; nothing here depends on when or where it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from flows.ledger.facts import BYTE_PAIRS, CHARACTERS, CLEANED, FETCHED, CleanedText, FetchedText, Tokenised
from flows.ledger.markers import last_finished
from flows.ledger.steps import Json, StepResult
from flows.runner.run import AnyStep, Phase, Run, Step
from nanogpt import durable
from nanogpt.config import CLEANING_CHOICES, DataConfig, token_folder
from nanogpt.faults import UserError
from nanogpt.records import from_json
from nanogpt.sources import catalogue, fetching
from nanogpt.sources.account import Account
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.reading import texts_of
from nanogpt.spelling import path_of, spelled
from nanogpt.tokenizers.vocabulary import content_of


def dataset(run: Run) -> None:
    source = run.do(FETCHED).source
    text = run.do(CLEANED)
    byte_pairs = run.start_in_background(BYTE_PAIRS)
    run.do(CHARACTERS)
    byte_pairs()
    run.milestone(
        "dataset",
        f"data: {Path(source).name}, {text.characters:,} characters",
        f"{text.words:,} words, an alphabet of {text.alphabet_size}; sha256 {text.sha256}.",
        [run.paths.data / "text/statistics.json", run.paths.data / "char/manifest.json"],
    )


def fetch_text(run: Run) -> StepResult[FetchedText]:
    data = run.config.data
    fetched = _from_its_splits(run) or fetching.fetch(
        data.source,
        run.paths.downloads,
        data.mirrors,
        notify=_recorder_of_downloads(run),
        wanted=_wanted(run),
    )
    for remark in fetched.remarks():
        run.journal.message(remark)
    alphabet: set[str] = set()
    characters = 0
    for document in fetched.documents:
        run.pulse()
        for text in texts_of(document, _wanted(run), Account()):
            alphabet |= set(text)
            characters += len(text)
    source = catalogue.EMBEDDED if fetched.fallback_reason else data.source
    facts = FetchedText(
        source=source,
        origin=fetched.origin,
        sha256=fetched.sha256,
        bytes=fetched.bytes,
        documents=len(fetched.documents),
        files=[spelled(document) for document in fetched.documents],
        characters=characters,
        alphabet_size=len(alphabet),
        fallback_reason=fetched.fallback_reason,
        licence=catalogue.licence(source),
    )
    ours = [document for document in fetched.documents if document.is_relative_to(run.paths.downloads)]
    identity = {"sha256": facts.sha256, "bytes": facts.bytes, "characters": characters, "alphabet_size": len(alphabet)}
    return StepResult(facts, ours, identity)


def _recorder_of_downloads(run: Run) -> Callable[[str, str], None]:
    """What takes a fault of a download and its remedy."""

    def record(fault: str, remedy: str) -> None:
        run.journal.record(FETCHED.step, "download", fault, remedy)

    return record


def _from_its_splits(run: Run) -> fetching.Fetched | None:
    """A download that is damaged, from the splits that were made of it, if its bytes come out: a network may be gone
    by now, and another Python's documentation is another text."""
    from nanogpt.data.texts import SPLITS  # numpy: 0.1 s, which --status does without; so below

    before = last_finished(run.ledger.marker(FETCHED.step))
    if before is None or before.settings != _fetch_settings(run) or len(before.outputs) != 1:
        return None
    [output] = before.outputs
    path = run.paths.workspace / output.path
    try:
        if path.is_file() and durable.sha256_file(path) == output.sha256:
            return None  # whole: somebody asked for another try
        text = b"".join(durable.read_bytes(run.paths.data / f"text/{split}.txt") for split in SPLITS)
        facts = from_json(FetchedText, before.facts)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(text).hexdigest() != output.sha256:
        return None
    durable.write_bytes(path, text)
    run.journal.message(f"{run.paths.relative(path)} is put together again from its splits")
    return fetching.Fetched([path], facts.origin, facts.sha256, facts.bytes, facts.fallback_reason)


def clean_text(run: Run) -> StepResult[CleanedText]:
    from nanogpt.corpus import preparation
    from nanogpt.data import texts

    fetched = run.facts(FETCHED)
    documents = [path_of(document) for document in fetched.files]
    if fetching.digest_of(documents) != fetched.sha256:
        raise UserError(
            f"data.source: {run.config.data.source} has changed since it was read first; start again to learn from it "
            "as it is now"
        )
    folder = run.paths.data / "text"
    account = Account()
    statistics = preparation.prepare(documents, folder, run.config.data, account=account, pulse=run.pulse)
    for remark in [*account.remarks(), *preparation.remarks(statistics)]:
        run.journal.message(remark)
    facts = CleanedText(**vars(statistics), alphabet_size=len(statistics.alphabet))
    files = [folder / f"{split}.txt" for split in texts.SPLITS]
    return StepResult(facts, [*files, folder / texts.STATISTICS])


def tokenise(run: Run, kind: str) -> StepResult[Tokenised]:
    from nanogpt.corpus import tokenising
    from nanogpt.data import shards

    folder = run.paths.data / token_folder(kind)
    manifest = tokenising.tokenise(
        run.paths.data / "text",
        kind,
        folder,
        run.config.data,
        notify=_recorder_of_downloads(run),
    )
    files = [folder / name for name in manifest.files]
    facts = Tokenised(**vars(manifest.statistics), folder=run.paths.relative(folder), splits=manifest.splits)
    return StepResult(facts, [*files, folder / shards.MANIFEST])


def _fetch_settings(run: Run) -> Json:
    """A person's own text counts by its content: an edited file is fetched, and learned from, anew. A download counts
    by its mirror too: naming one is how a person replaces the embedded corpus of a start without network."""
    data = run.config.data
    settings = {"source": data.source, "content": fetching.fingerprint(data.source), **_reading_of(run)}
    return {"data": settings | ({"mirror": data.model_dump()["mirror"]} if data.source in catalogue.CATALOGUE else {})}


def _reading_of(run: Run) -> Json:
    """How texts are read where a person chose: runs from before there was a choice are kept."""
    data, defaults = run.config.data, DataConfig()
    chosen = {name: getattr(data, name) for name in ("encoding", "column", "repair")}
    return {name: value for name, value in chosen.items() if value != getattr(defaults, name)}


def _wanted(run: Run) -> Wanted:
    data = run.config.data
    return Wanted(data.encoding, data.column, data.repair)


def _clean_settings(run: Run) -> Json:
    """The choices of cleaning where a person made one: runs from before there were any are kept."""
    data = run.config.data
    choices = data.model_dump(include={*CLEANING_CHOICES}, exclude_defaults=True)
    return {"data": data.model_dump(include={"val_fraction", "test_fraction"}) | choices | _reading_of(run)}


def _bpe_kind(run: Run) -> str:
    kind = run.config.data.tokenizer
    return "bpe" if kind in ("auto", "char") else kind


def _bpe_settings(run: Run) -> Json:
    data = run.config.data
    settings = {"kind": _bpe_kind(run), "bpe_vocab_size": data.bpe_vocab_size, **content_of(_bpe_kind(run))}
    return {"data": settings | ({"chat_tokens": True} if data.chat_tokens else {})}


CLEANING = (
    "flows/phases/dataset.py",
    "nanogpt/sources/**",
    "nanogpt/corpus/preparation.py",
    "nanogpt/corpus/selection.py",
    "nanogpt/corpus/fates.py",
    "nanogpt/corpus/filters.py",
    "nanogpt/corpus/language.py",
    "nanogpt/corpus/quality_rules.py",
    "nanogpt/corpus/profanity.py",
    "nanogpt/corpus/private_data.py",
    "nanogpt/corpus/fingerprints.py",
    "nanogpt/corpus/duplicates.py",
    "nanogpt/data/texts.py",
)
TOKENISING = (
    "flows/phases/dataset.py",
    "nanogpt/sources/**",
    "nanogpt/tokenizers/**",
    "nanogpt/corpus/**",
    "nanogpt/data/texts.py",
    "nanogpt/data/shard_file.py",
    "nanogpt/data/shards.py",
)
STEPS: list[AnyStep] = [
    Step(
        key=FETCHED,
        title="Fetch and verify the text",
        work=fetch_text,
        settings=_fetch_settings,
        code=("flows/phases/dataset.py", "nanogpt/sources/**", "nanogpt/data/texts.py"),
    ),
    Step(
        key=CLEANED,
        title="Clean the text and split it",
        work=clean_text,
        settings=_clean_settings,
        needs=("dataset.fetch",),
        code=CLEANING,
    ),
    Step(
        key=CHARACTERS,
        title="Tokenise into characters",
        work=lambda run: tokenise(run, "char"),
        needs=("dataset.clean",),
        code=TOKENISING,
    ),
    Step(
        key=BYTE_PAIRS,
        title="Learn byte pairs and tokenise",
        work=lambda run: tokenise(run, _bpe_kind(run)),
        settings=_bpe_settings,
        needs=("dataset.clean",),
        code=TOKENISING,
    ),
]
PHASE = Phase("dataset", dataset, lambda wanted: STEPS)
