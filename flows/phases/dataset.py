"""Phase 4: text is fetched, verified, cleaned, split and tokenised; nothing here depends on when or where it runs."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from flows.ledger.facts import (
    BYTE_PAIRS,
    CHARACTERS,
    CLEANED,
    FETCHED,
    MEASURED,
    PLANNED,
    SURVEYED,
    CleanedText,
    FetchedText,
    PlannedText,
    Tokenised,
)
from flows.ledger.markers import last_finished
from flows.ledger.steps import Json, StepResult
from flows.planning.texts import is_open
from flows.runner.run import AnyStep, Phase, Run, Step, StepsWanted
from flows.runner.step_runner import Blocked
from nanogpt import durable
from nanogpt.config import CLEANING_CHOICES, DataConfig, token_folder
from nanogpt.corpus.executors import Workers
from nanogpt.faults import UserError
from nanogpt.records import from_json, to_json
from nanogpt.sources import catalogue, fetching, hub_address
from nanogpt.sources.account import Account
from nanogpt.sources.formats.family import Wanted
from nanogpt.sources.part import Unobtainable
from nanogpt.sources.pieces import FetchedPieces, fetch_pieces
from nanogpt.sources.reading import texts_of
from nanogpt.spelling import path_of, spelled
from nanogpt.tokenizers.vocabulary import content_of

PIECES = "pieces.json"  # in a run's data folder: where the pieces of its text lie
SECONDS_BETWEEN_MESSAGES = 15.0


def dataset(run: Run) -> None:
    source = _fetch(run).source
    text = run.do(CLEANED)
    byte_pairs = run.start_in_background(BYTE_PAIRS)
    if run.text_order != "in pieces":
        run.do(CHARACTERS)
    byte_pairs()
    kind = _second_kind(run) if run.text_order == "in pieces" else "char"
    run.milestone(
        "dataset",
        f"data: {Path(source).name}, {text.characters:,} characters",
        f"{text.words:,} words, an alphabet of {text.alphabet_size}; sha256 {text.sha256}.",
        [run.paths.data / "text/statistics.json", run.paths.data / token_folder(kind) / "manifest.json"],
    )


def _fetch(run: Run) -> FetchedText:
    """The text; where the one that was planned cannot be had after all, the next best, with a plan of its own."""
    while True:
        try:
            return run.do(FETCHED)
        except (Unobtainable, UserError) as error:
            planned = _planned(run)
            if not is_open(run.config.data) or planned is None or planned.name in run.lost_texts.reasons():
                raise
            run.lost_texts.note(planned.name, str(error))
            _plan_without(run, planned.name, str(error))


def _plan_without(run: Run, name: str, reason: str) -> None:
    began = run.clock.spent
    run.do(SURVEYED)
    run.do(MEASURED)
    plan = run.do(PLANNED)
    run.worker.close()
    run.journal.display.forecast(plan.forecast())
    outcome = f"now {plan.text.name}, for {', then '.join(model.name for model in plan.ladder)}" if plan.text else ""
    seconds = run.clock.spent - began
    run.journal.record(
        FETCHED.step, "download", f"{name}: {reason}", "another text, and another plan", outcome, seconds
    )


def fetch_text(run: Run) -> StepResult[FetchedText]:
    planned = _planned(run)
    if planned is None:
        return _fetch_whole(run, run.config.data.source)
    return _fetch_in_pieces(run, planned) if planned.in_pieces else _fetch_whole(run, planned.name)


def _fetch_in_pieces(run: Run, planned: PlannedText) -> StepResult[FetchedText]:
    """As many bytes as the plan reads; what is downloaded stays with all runs' downloads."""
    says, others, data = _Progress(run), Account(), run.config.data

    def fetched(source: str, share: float) -> FetchedPieces:
        return fetch_pieces(
            source,
            math.ceil(share * planned.wanted_bytes),
            data.mirrors,
            run.paths.downloads,
            _recorder_of_downloads(run),
            lambda progress: says(f"{source}: {progress}"),
            Wanted.of(run.config.data),
            others,
        )

    weights = {mixed.source: mixed.weight for mixed in data.mixture} or {planned.name: 1.0}
    found = _together([fetched(source, weight / sum(weights.values())) for source, weight in weights.items()])
    if found.shortfall:
        run.journal.message(found.shortfall, "warning")
    note = run.paths.data / PIECES
    for remark in others.remarks():
        run.journal.message(remark)
    durable.write_json(note, to_json(found))
    facts = FetchedText(
        source=planned.name,
        origin=found.origin,
        sha256=found.sha256,
        bytes=found.bytes,
        documents=0,
        files=[],
        characters=0,
        alphabet_size=0,
        fallback_reason=found.shortfall,
        licence=found.licence,
        pieces=len(found.pieces),
    )
    return StepResult(facts, [note], {"sha256": facts.sha256, "bytes": facts.bytes})


def _together(texts: list[FetchedPieces]) -> FetchedPieces:
    """The pieces of a mixture, of one text after the other."""
    if len(texts) == 1:
        return texts[0]

    def joined(words: Iterable[str | None]) -> str | None:
        return "; ".join(dict.fromkeys(filter(None, words))) or None

    return replace(
        texts[0],
        pieces=[piece for text in texts for piece in text.pieces],
        origin=joined(text.origin for text in texts) or "",
        bytes=sum(text.bytes for text in texts),
        sha256=durable.digest([text.sha256 for text in texts]),
        licence=joined(text.licence for text in texts),
        shortfall=joined(text.shortfall for text in texts),
    )


def _fetch_whole(run: Run, source: str) -> StepResult[FetchedText]:
    data = run.config.data
    fetched = _from_its_splits(run) or fetching.fetch(
        source,
        run.paths.downloads,
        data.mirrors,
        notify=_recorder_of_downloads(run),
        wanted=Wanted.of(run.config.data),
        or_embedded=not run.options.text_by_plan,
    )
    for remark in fetched.remarks():
        run.journal.message(remark)
    alphabet: set[str] = set()
    characters, is_alone = 0, len(fetched.documents) == 1
    for document in fetched.documents:
        run.pulse()
        for text in texts_of(document, Wanted.of(run.config.data), Account(), is_alone):
            alphabet |= set(text)
            characters += len(text)
    source = catalogue.EMBEDDED if fetched.fallback_reason else source
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
    return _clean_in_pieces(run) if run.facts(FETCHED).pieces else _clean_whole(run)


def _clean_in_pieces(run: Run) -> StepResult[CleanedText]:
    from nanogpt.corpus import pipeline, preparation
    from nanogpt.data import texts

    pieces = from_json(FetchedPieces, durable.read_json(run.paths.data / PIECES)).pieces
    folder = run.paths.data / "text"
    says = _Progress(run)
    statistics = pipeline.prepare(
        pieces,
        folder,
        run.config.data,
        workers=_workers(),
        pulse=run.pulse,
        report=lambda what, done, of: says(f"{what}: {done:,} of {of:,}"),
    )
    for remark in preparation.remarks(statistics):
        run.journal.message(remark)
    facts = CleanedText(**vars(statistics), alphabet_size=len(statistics.alphabet))
    files = [folder / f"{split}.txt" for split in texts.SPLITS]
    return StepResult(facts, [*files, folder / texts.STATISTICS])


def _workers() -> Workers:
    """As many processes as this machine has cores and memory for: the bytes do not depend on their number."""
    from nanogpt.corpus.choosing import sensible_workers  # pyarrow: 0.2 s, as above

    return Workers(sensible_workers())


class _Progress:
    """How far something has come: a message every SECONDS_BETWEEN_MESSAGES, not for what is done before."""

    def __init__(self, run: Run):
        self._run, self._said = run, time.monotonic()

    def __call__(self, how_far: str) -> None:
        self._run.pulse()
        if time.monotonic() - self._said >= SECONDS_BETWEEN_MESSAGES:
            self._said = time.monotonic()
            self._run.journal.message(how_far)


def _clean_whole(run: Run) -> StepResult[CleanedText]:
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
    for remark in [*account.repairs(), *preparation.remarks(statistics)]:
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
        _tokenised_data(run),
        notify=_recorder_of_downloads(run),
        workers=_workers(),
        pulse=run.pulse,
    )
    files = [folder / name for name in manifest.files]
    facts = Tokenised(**vars(manifest.statistics), folder=run.paths.relative(folder), splits=manifest.splits)
    return StepResult(facts, [*files, folder / shards.MANIFEST])


def _fetch_settings(run: Run) -> Json:
    """A person's own text counts by its content: an edited file is fetched, and learned from, anew. A download counts
    by its mirror too: naming one is how a person replaces the embedded corpus of a start without network."""
    data, planned = run.config.data, _planned(run)
    source = planned.name if planned else data.source
    of_mixture = {mixed.source: [mixed.weight, fetching.fingerprint(mixed.source)] for mixed in data.mixture}
    settings = {"source": source, "content": of_mixture or fetching.fingerprint(source), **_reading_of(run)}
    if data.mixture or source in catalogue.CATALOGUE or hub_address.is_hub_address(source):
        settings["mirror"] = data.model_dump()["mirror"]
    if planned and planned.in_pieces:
        settings["wanted_bytes"] = planned.wanted_bytes
    return {"data": settings}


def _reading_of(run: Run) -> Json:
    """How texts are read where a person chose: runs from before there was a choice are kept."""
    data, defaults = run.config.data, DataConfig()
    chosen = {name: getattr(data, name) for name in ("encoding", "column", "repair")}
    return {name: value for name, value in chosen.items() if value != getattr(defaults, name)}


def _clean_settings(run: Run) -> Json:
    """The choices of cleaning where a person made one: runs from before there were any are kept."""
    data = run.config.data
    choices = data.model_dump(include={*CLEANING_CHOICES}, exclude_defaults=True)
    return {"data": data.model_dump(include={"val_fraction", "test_fraction"}) | choices | _reading_of(run)}


def _tokenised_data(run: Run) -> DataConfig:
    """The settings, with the vocabulary that the plan chose."""
    data, planned = run.config.data, _planned(run)
    return data.model_copy(update={"bpe_vocab_size": planned.tokens.vocabulary}) if planned else data


def _second_kind(run: Run) -> str:
    """The tokens besides characters; those of the plan where they are the only ones."""
    planned, asked = _planned(run), run.config.data.tokenizer
    if planned and planned.in_pieces:
        return planned.tokens.tokenizer
    return asked if asked not in ("auto", "char") else "bpe"


def _second_settings(run: Run) -> Json:
    data, kind = _tokenised_data(run), _second_kind(run)
    settings = {"kind": kind, "bpe_vocab_size": data.bpe_vocab_size, **content_of(kind)}
    return {"data": settings | ({"chat_tokens": True} if data.chat_tokens else {})}


def _planned(run: Run) -> PlannedText | None:
    """The text that the plan chose; None where a person named one that is fetched before. Raises Blocked without a
    plan."""
    if not run.options.text_by_plan:
        return None
    plan = run.ledger.facts(PLANNED)
    if plan is None:
        raise Blocked(f"{PLANNED.step} has not finished")
    return plan.text


CLEANING = (
    "flows/phases/dataset.py",
    "nanogpt/sources/**",
    "nanogpt/tokenizers/**",
    "nanogpt/corpus/**",
    "nanogpt/data/texts.py",
)
TOKENISING = (*CLEANING, "nanogpt/data/shard_file.py", "nanogpt/data/shards.py")
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
        work=lambda run: tokenise(run, _second_kind(run)),
        settings=_second_settings,
        needs=("dataset.clean",),
        code=TOKENISING,
    ),
]


def steps(wanted: StepsWanted) -> list[AnyStep]:
    """A text that the plan chose is fetched after it; one that comes in pieces has one kind of tokens, and is not made
    again for a change of code alone."""
    if wanted.text == "first":
        return STEPS
    planned = [replace(STEPS[0], needs=(PLANNED.step,)), *STEPS[1:]]
    if wanted.text == "planned":
        return planned
    return [replace(step, costly=True) for step in planned if step.key != CHARACTERS]


PHASE = Phase("dataset", dataset, steps)
