"""Text in two passes: the same bytes whatever the processes and whoever is killed, and nothing lost on the way."""

import itertools
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanogpt import cli, durable
from nanogpt.config import DataConfig
from nanogpt.corpus import pipeline, tokenising
from nanogpt.corpus.executors import Workers
from nanogpt.data import shards
from nanogpt.data.texts import SPLITS, bytes_of, read_split
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.records import to_json
from nanogpt.results.text import TextStatistics
from nanogpt.sources.document import Piece
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.tokenizers.making import make_tokenizer

pytestmark = pytest.mark.fast
CONFIG = DataConfig(bpe_vocab_size=300, val_fraction=0.1, test_fraction=0.1)
WORDS = [f"{first}{second}{third}" for first in "bdfgk" for second in "aeiou" for third in "lmnrst"]
END = "<|endoftext|>"
WITH_TWO_PROCESSES = """
import json, sys
from pathlib import Path
from nanogpt.config import DataConfig
from nanogpt.corpus import pipeline
from nanogpt.corpus.executors import Workers
from nanogpt.sources.document import Piece
from nanogpt.tokenizers.making import make_tokenizer
pieces, out = Path(sys.argv[1]), Path(sys.argv[2])
config = DataConfig(bpe_vocab_size=300, val_fraction=0.1, test_fraction=0.1)
pieces = [Piece(**piece) for piece in json.loads(pieces.read_text())]
pipeline.prepare(pieces, out / "text", config, workers=Workers(2))
tokenizer = make_tokenizer("bpe", pipeline.sample(pipeline.decisions_of(out / "text")), out, config)
pipeline.tokenise(out / "text", tokenizer, out, "made", workers=Workers(2), shard_bytes=1)
"""


def documents(count: int, seed: int = 0, words: int = 40) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=words)) + f".\nEnd of {number} é\n" for number in range(count)]


def pieces_of(folder: Path, parts: list[list[str]], **options: str) -> list[Piece]:
    """A file of JSON lines for each part, each a piece."""
    folder.mkdir(exist_ok=True)
    found = []
    for number, part in enumerate(parts):
        path = folder / f"{number}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part), encoding="utf-8")
        found.append(Piece("jsonl", str(path), "made", options=options))
    return found


def made(folder: Path, pieces: list[Piece], workers: int = 1, **options) -> TextStatistics:
    """The data folder of `pieces`, with as many shards as there are pieces."""
    statistics = pipeline.prepare(pieces, folder / "text", CONFIG, workers=Workers(workers))
    sample = pipeline.sample(pipeline.decisions_of(folder / "text"))
    tokenizer = make_tokenizer("bpe", sample, folder, CONFIG)
    pipeline.tokenise(folder / "text", tokenizer, folder, "made", workers=Workers(workers), shard_bytes=1, **options)
    return statistics


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def texts_in(folder: Path, split: str) -> list[str]:
    """The documents of a split, from its tokens."""
    text = load_tokenizer(folder).decode(np.asarray(shards.open_split(folder, split).tokens).tolist())
    assert text.endswith(END)
    return text.split(END)[:-1]


@pytest.mark.slow
def test_a_preparation_that_was_killed_gives_the_same_bytes_on_any_number_of_processes(tmp_path):
    """Killed twice, in each pass once, with two processes at work; then one process ends what they began."""
    parts = [documents(40, seed) for seed in range(8)]
    pieces = pieces_of(tmp_path / "in", parts)
    made(tmp_path / "whole", pieces)
    (tmp_path / "pieces.json").write_text(json.dumps([to_json(piece) for piece in pieces]))
    for sign in ("text/pieces/piece-*.json", ".making/*.json"):
        process = subprocess.Popen(
            [sys.executable, "-c", WITH_TWO_PROCESSES, tmp_path / "pieces.json", tmp_path / "cut"]
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and not list((tmp_path / "cut").glob(sign)) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.kill()
        process.wait()
        assert not (tmp_path / "cut/manifest.json").exists(), "it ended before it was killed"
    while not all(map(durable.is_abandoned, (tmp_path / "cut").rglob(".*.tmp"))):  # a worker is still at the disk
        assert time.monotonic() < deadline, "a worker outlives the process that began it"
        time.sleep(0.01)
    made(tmp_path / "cut", pieces)
    whole, cut = files_in(tmp_path / "whole"), files_in(tmp_path / "cut")
    assert sorted(cut) == sorted(whole)
    assert [name for name in whole if whole[name] != cut[name]] == []


@given(
    st.lists(st.sampled_from(documents(60, 5)), max_size=30),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_document_is_counted_and_stands_in_one_split_whatever_the_order(tmp_path_factory, texts, cuts, chance):
    folder = tmp_path_factory.mktemp("any")
    rows = [*documents(60, 5)[:20], *texts, "", " \n "]
    found = []
    for name in ("a", "b"):
        parts = [rows[number::cuts] for number in range(cuts)]
        statistics = made(folder / name, pieces_of(folder / f"{name}-in", parts))
        assert sum(fate.documents for fate in statistics.fates.fates.values()) == len(rows)
        splits = {split: texts_in(folder / name, split) for split in SPLITS}
        assert sorted(text for split in splits.values() for text in split) == sorted(
            {text for text in rows if text.strip()}
        )
        assert read_split(folder / name / "text", "val") == "".join(f"{text}\n\n" for text in splits["val"])
        test = shards.open_split(folder / name, "test")
        assert bytes_of(test.tokens, load_tokenizer(folder / name)) == (folder / name / "text/test.txt").read_bytes()
        assert statistics.splits["test"].bytes == test.bytes
        found.append({text: split for split, held in splits.items() for text in held})
        chance.shuffle(rows)
    assert found[0] == found[1]


def test_one_long_text_is_cut_where_it_stands_and_nothing_of_it_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("nanogpt.corpus.scanning.SECTION", 500)
    text = "".join(documents(300, 7, words=8)) + "the same again\n" * 200
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    size = len(text.encode())
    cuts = [0, *(text.encode().index(b"\n", size * part // 3) + 1 for part in (1, 2)), size]
    pieces = [Piece("text", str(tmp_path / "book.txt"), "book", first, end) for first, end in itertools.pairwise(cuts)]
    pipeline.prepare(pieces, tmp_path / "text", CONFIG)
    tokenising.tokenise(tmp_path / "text", "char", tmp_path, CONFIG)
    tokenizer = load_tokenizer(tmp_path)
    splits = [tokenizer.decode(np.asarray(shards.open_split(tmp_path, split).tokens).tolist()) for split in SPLITS]
    assert "".join(splits) == text
    assert [len(part) / len(text) for part in splits] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert [len(part.encode()) for part in splits] == [shards.open_split(tmp_path, split).bytes for split in SPLITS]


def test_what_a_publisher_held_out_stays_held_out(tmp_path):
    train, val = documents(200, 1), documents(30, 2)
    pieces = [
        *pieces_of(tmp_path / "v", [val], split="val"),
        *pieces_of(tmp_path / "t", [train + val[:5]], split="train"),
    ]
    statistics = made(tmp_path / "out", pieces)
    assert texts_in(tmp_path / "out", "val") == val
    rest = texts_in(tmp_path / "out", "train") + texts_in(tmp_path / "out", "test")
    assert sorted(rest) == sorted(train) and statistics.fates.fates["duplicate"].documents == 5


def test_a_split_whose_published_documents_are_too_long_to_be_evaluated_is_not_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("nanogpt.corpus.deciding.LARGEST_HELD_OUT", 1000)
    book = [" ".join(documents(8, seed=2))]
    pieces = [*pieces_of(tmp_path / "v", [book], split="val"), *pieces_of(tmp_path / "t", [documents(60)])]
    statistics = made(tmp_path / "out", pieces)
    assert statistics.fates.fates["not_needed"].documents == 1
    assert all(texts_in(tmp_path / "out", split) for split in SPLITS)


def test_a_training_may_begin_while_later_shards_are_made(tmp_path):
    pieces = pieces_of(tmp_path / "in", [documents(30, seed) for seed in range(5)])
    seen = []

    def look(what: str, done: int, of: int) -> None:
        if what == "shards written" and (tmp_path / "out/manifest.json").is_file():
            manifest = shards.verify(tmp_path / "out")
            held = np.asarray(shards.open_split(tmp_path / "out", "train").tokens).tolist()
            seen.append((manifest.complete, manifest.chapters, shards.identity(tmp_path / "out"), held))

    made(tmp_path / "out", pieces, chapter=2, report=look)
    whole = np.asarray(shards.open_split(tmp_path / "out", "train").tokens).tolist()
    assert shards.read_manifest(tmp_path / "out").complete and len(seen) >= 3
    assert {(tuple(chapters), identity) for _, chapters, identity, _ in seen} == {
        ((2, 2, 1), shards.identity(tmp_path / "out"))
    }
    assert all(whole[: len(held)] == held for *_, held in seen) and not seen[0][0]


def test_a_source_without_text_says_what_became_of_it(tmp_path):
    with pytest.raises(UserError, match=r"data\.source: no text is left of it \(empty 2\)"):
        pipeline.prepare(pieces_of(tmp_path / "in", [["", "  "]]), tmp_path / "text", CONFIG)


def test_damage_to_what_the_first_pass_wrote_is_noticed_and_mended_at_the_next_start(tmp_path):
    pieces = pieces_of(tmp_path / "in", [documents(100)])
    made(tmp_path / "out", pieces)
    whole = files_in(tmp_path / "out")
    [path] = (tmp_path / "out/text/pieces").glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"piece-000000\.parquet is damaged"):
        made(tmp_path / "out", pieces)
    made(tmp_path / "out", pieces)
    again = files_in(tmp_path / "out")
    assert again.pop("text/pieces/piece-000000.parquet.bad") == content and again == whole


def test_a_disk_without_room_is_found_before_the_ids_are_made(tmp_path, monkeypatch):
    ignored = CONFIG.model_copy(update={"near_duplicates": "ignore"})
    pipeline.prepare(pieces_of(tmp_path / "in", [documents(100)]), tmp_path / "text", ignored)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Mock(free=10_000))
    with pytest.raises(UserError, match=r"the ids need about 3\d\.\d KiB, and 9\.8 KiB are free"):
        tokenising.tokenise(tmp_path / "text", "byte", tmp_path / "out", CONFIG)


def test_prepare_takes_a_large_file_in_pieces_and_says_what_it_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nanogpt.sources.own.SMALL_TEXT", 1000)
    rows = [*documents(300), documents(1)[0], "half \ud83d of a character, and enough words to be a text", ""]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    arguments = ["prepare", str(tmp_path / "own.jsonl"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main([*arguments, "--set", "data.min_characters=50"]) == 0
    printed = capsys.readouterr()
    manifest = shards.verify(tmp_path / "out")
    assert printed.out == f"{tmp_path / 'out'}: {manifest.summary()}\n" and manifest.source == "own.jsonl"
    assert "1 document left out: the same as another" in printed.err
    assert not (tmp_path / "out/text/pieces").exists() and not (tmp_path / "out/.making").exists()
    assert "half \ufffd of a character" in "".join(read_split(tmp_path / "out/text", split) for split in SPLITS)
    assert cli.main([*arguments, "--tokenizer-of", str(tmp_path / "out")]) == 0  # again, with its own tokenizer
    assert shards.verify(tmp_path / "out").tokenizer == manifest.tokenizer
    assert cli.main([*arguments[:3], str(tmp_path / "x"), "--set", "data.min_characters=5000"]) == 2
    assert "no text is left of it (" in capsys.readouterr().err.splitlines()[-1]
