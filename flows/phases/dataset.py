"""Phase 4: text is fetched, verified, cleaned, split and tokenised; nothing here depends on when or where it runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flows.ledger.ledger import Outcome, Step
from flows.ledger.markers import last_finished
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.data import preprocessing, shards, sources
from nanogpt.data.decoding import decode
from nanogpt.faults import UserError
from nanogpt.records import to_json
from nanogpt.spelling import path_of, spelled


def dataset(run: Run) -> None:
    run.do(FETCH)  # began beside phase 2
    run.do(CLEAN)
    byte_pairs = run.beside(BYTE_PAIRS)
    run.do(CHARACTERS)
    byte_pairs()
    text, source = run.facts("dataset.clean"), run.facts("dataset.fetch")["source"]
    run.milestone(
        "dataset", f"data: {Path(source).name}, {text['characters']:,} characters",
        f"{text['words']:,} words, an alphabet of {text['alphabet_size']}; sha256 {text['sha256']}.",
        [run.paths.data / "text/statistics.json", run.paths.data / "char/manifest.json"],
    )  # fmt: skip


def remake_damaged(run: Run) -> list[str]:
    """Check every output of this phase's finished steps by its digest and run again what made a damaged one.

    What was damaged, in words. Raises RuntimeError when other bytes came out: nothing can go on with those.
    """
    remade = []
    for step in STEPS:
        damage = run.ledger.damage(step.name) if step.name in run.finished_steps else None
        if damage:
            before = run.ledger.output_digest(step.name)
            run.do(step)
            if run.ledger.output_digest(step.name) != before:
                raise RuntimeError(f"{damage}, and it cannot be made again as it was: {step.title} gave other output")
            remade.append(damage)
    return remade


def fetch_text(run: Run) -> Outcome:
    data = run.config.data
    fetched = _put_together(run) or sources.fetch(
        data.source, run.paths.downloads, data.mirrors, notify=lambda *told: _note_download(run, *told),
        encoding=data.encoding,
    )  # fmt: skip
    for remark in fetched.remarks():
        run.tell(remark)
    alphabet, characters = set(), 0
    for document in fetched.documents:
        text = decode(document.read_bytes(), document, data.encoding).text
        alphabet |= set(text)
        characters += len(text)
    source = sources.EMBEDDED if fetched.fallback_reason else data.source
    facts = {
        "source": source, "origin": fetched.origin, "sha256": fetched.sha256, "bytes": fetched.bytes,
        "documents": len(fetched.documents),
        "files": [spelled(document) for document in fetched.documents], "characters": characters,
        "alphabet_size": len(alphabet), "fallback_reason": fetched.fallback_reason,
        "licence": sources.licence(source),
    }  # fmt: skip
    ours = [document for document in fetched.documents if document.is_relative_to(run.paths.downloads)]
    identity = {key: facts[key] for key in ("sha256", "bytes", "characters", "alphabet_size")}
    return Outcome(ours, facts, identity)


def _note_download(run: Run, fault: str, remedy: str) -> None:
    run.remedy(step=FETCH.name, symptom="download", evidence=fault, remedy=remedy, outcome="", cost_seconds=0.0,
               steps_lost=0)  # fmt: skip


def _put_together(run: Run) -> sources.Fetched | None:
    """A download that is damaged, from the splits that were made of it, if its bytes come out: a network may be gone
    by now, and another Python's documentation is another text."""
    before = last_finished(run.ledger.marker(FETCH.name))
    if before is None or before["settings"] != _fetch_settings(run) or len(before["outputs"]) != 1:
        return None
    facts, [output] = before["facts"], before["outputs"]
    path = run.paths.workspace / output["path"]
    try:
        if path.is_file() and durable.sha256_file(path) == output["sha256"]:
            return None  # whole: somebody asked for another try
        text = b"".join((run.paths.data / f"text/{split}.txt").read_bytes() for split in preprocessing.SPLITS)
    except OSError:
        return None
    if hashlib.sha256(text).hexdigest() != output["sha256"]:
        return None
    durable.unblock(path)
    durable.write_bytes(path, text)
    run.tell(f"{run.relative(path)} is put together again from its splits")
    return sources.Fetched([path], facts["origin"], facts["sha256"], facts["bytes"], facts["fallback_reason"])


def clean_text(run: Run) -> Outcome:
    fetched = run.facts("dataset.fetch")
    documents = [path_of(document) for document in fetched["files"]]
    if sources.digest_of(documents) != fetched["sha256"]:
        raise UserError(
            f"data.source: {run.config.data.source} has changed since it was read first; start again to learn from it "
            "as it is now"
        )
    folder = run.paths.data / "text"
    statistics = preprocessing.prepare(documents, folder, run.config.data)
    for remark in preprocessing.remarks(statistics):
        run.tell(remark)
    facts = {**to_json(statistics), "alphabet_size": len(statistics.alphabet)}
    files = [folder / f"{split}.txt" for split in preprocessing.SPLITS]
    return Outcome([*files, folder / preprocessing.STATISTICS], facts)


def tokenise(run: Run, kind: str) -> Outcome:
    folder = run.paths.data / kind
    manifest = shards.tokenise(run.paths.data / "text", kind, folder, run.config.data,
                               notify=lambda *told: _note_download(run, *told))  # fmt: skip
    files = [folder / name for name in manifest.files]
    splits = {name: to_json(split) for name, split in manifest.splits.items()}
    facts = {"folder": run.relative(folder), "splits": splits, **to_json(manifest.statistics)}
    return Outcome([*files, folder / shards.MANIFEST], facts)


def _fetch_settings(run: Run) -> dict:
    """A person's own text counts by its content: an edited file is fetched, and learned from, anew. A download counts
    by its mirror too: naming one is how a person replaces the embedded corpus of a start without network."""
    data = run.config.data
    settings = {"source": data.source, "content": sources.fingerprint(data.source), **_encoding_of(run)}
    return {"data": settings | ({"mirror": data.model_dump()["mirror"]} if data.source in sources.CATALOGUE else {})}


def _encoding_of(run: Run) -> dict:
    """data.encoding where a person chose one: runs from before there was a choice are kept."""
    encoding = run.config.data.encoding
    return {} if encoding == "auto" else {"encoding": encoding}


def _bpe_kind(run: Run) -> str:
    return "gpt2" if run.config.data.tokenizer == "gpt2" else "bpe"


FETCH = Step("dataset.fetch", "Fetch and verify the text", fetch_text, _fetch_settings,
             code=("nanogpt.data.sources", "nanogpt.data.download", "nanogpt.data.outputs"))  # fmt: skip
CLEAN = Step(
    "dataset.clean", "Clean the text and split it", clean_text,
    lambda run: {"data": run.config.data.model_dump(include={"val_fraction", "test_fraction"}) | _encoding_of(run)},
    needs=("dataset.fetch",), code=("nanogpt.data.preprocessing", "nanogpt.data.decoding", "nanogpt.data.detection"),
)  # fmt: skip
CHARACTERS = Step(
    "dataset.characters", "Tokenise into characters", lambda run: tokenise(run, "char"), needs=("dataset.clean",),
    code=("nanogpt.data.tokenizer", "nanogpt.data.shards"),
)  # fmt: skip
BYTE_PAIRS = Step(
    "dataset.bpe", "Learn byte pairs and tokenise", lambda run: tokenise(run, _bpe_kind(run)),
    lambda run: {"data": {"kind": _bpe_kind(run), "bpe_vocab_size": run.config.data.bpe_vocab_size}},
    needs=("dataset.clean",), code=("nanogpt.data.tokenizer", "nanogpt.data.shards"),
)  # fmt: skip
STEPS = [FETCH, CLEAN, CHARACTERS, BYTE_PAIRS]
