"""A training of a mixture, of documents by themselves, with noise, and of data that is still being made: whole, and
stopped anywhere, with the same bytes."""

import json
import random
import threading
import time

import numpy as np
import pytest

from nanogpt.config import DataConfig
from nanogpt.corpus import pipeline
from nanogpt.data import shards
from nanogpt.data.chapters import Chapters
from nanogpt.data.mixture import Mixture
from nanogpt.faults import UserError
from nanogpt.sources.own_pieces import own_pieces
from nanogpt.tokenizers.making import make_tokenizer
from nanogpt.training import trainer
from nanogpt.training.record.metrics import read_metrics
from nanogpt.training.record.tracking import curves
from nanogpt.training.trainer import train
from tests.nanogpt.shards_case import first_chapters, make_shards, write_manifest
from tests.nanogpt.training_case import assert_same, make_data, tiny, train_with_stops

WORDS = [f"{first}{second}{third}" for first in "bdfgk" for second in "aeiou" for third in "lmnrst"]
MIXTURE = [{"source": "ships", "weight": 3}, {"source": "sheep"}]


def test_a_mixture_with_noise_of_documents_by_themselves_resumes_to_the_same_bytes(tmp_path):
    data = make_shards(tmp_path / "data")
    config = tiny(max_iters=8, eval_interval=4, batch_size=3, gradient_accumulation=2).with_changes(
        {"data.mixture": MIXTURE, "data.cross_documents": False, "data.token_dropout": 0.1, "data.span_corruption": 0.1}
    )
    whole = train(config, data, tmp_path / "whole")
    outcome = train_with_stops(config, data, tmp_path / "stopped", 12)
    assert_same(outcome, whole, tmp_path / "stopped", tmp_path / "whole")
    rows, _ = read_metrics(tmp_path / "whole")
    texts = shards.open_sources(data, "train")
    samples = Mixture({name: texts[name] for name in ("ships", "sheep")}, [3, 1], 16, config.training.seed)
    for row in rows:
        sources = [samples.names[samples.source(index)] for index in range(6 * (row["step"] - 1), 6 * row["step"])]
        assert row["loss_by_source"].keys() == set(sources)
        mean = np.mean([row["loss_by_source"][source] for source in sources])
        assert dict(curves(row))["loss/train/ships"] == row["loss_by_source"]["ships"]
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
    with pytest.raises(UserError, match=r"data\.token_dropout 0\.1 -> 0\.2"):
        train(config.with_changes({"data.token_dropout": 0.2}), data, tmp_path / "whole")
    plain = {"data.mixture": [], "data.cross_documents": True, "data.token_dropout": 0.0, "data.span_corruption": 0.0}
    for key, value in plain.items():  # each of them changes what is learned
        other = train(config.with_changes({key: value}), data, tmp_path / key)
        assert other.sha256 != whole.sha256


def test_a_training_that_begins_while_shards_are_made_has_the_bytes_of_one_afterwards(tmp_path, monkeypatch):
    chance, pieces = random.Random(0), []
    for number in range(8):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("".join(json.dumps({"text": " ".join(chance.choices(WORDS, k=40))}) + "\n" for _ in range(20)))
        pieces += own_pieces(str(file))
    settings = DataConfig(val_fraction=0.1, test_fraction=0.1, bpe_vocab_size=300)
    pipeline.prepare(pieces, tmp_path / "text", settings)
    tokenizer = make_tokenizer("bpe", pipeline.sample(pipeline.decisions_of(tmp_path / "text")), tmp_path, settings)
    in_chapters = dict(chapter=2, shard_bytes=1)
    pipeline.tokenise(tmp_path / "text", tokenizer, tmp_path / "finished", **in_chapters)
    config, growing = tiny(batch_size=20), tmp_path / "growing"
    assert Chapters(tmp_path / "finished", 16, 0)._ends[-2] < 24 * 20
    whole = train(config, tmp_path / "finished", tmp_path / "whole")
    heartbeat, steps = tmp_path / "model" / "heartbeat", []

    def waits_at(beat: dict) -> bool:
        return "waiting" in beat.get("activity", "") and beat["step"] not in steps

    def until_it_waits(what: str, done: int, of: int) -> None:
        """After each chapter but the last: the training has to say that it waits before the next is made."""
        if (growing / shards.MANIFEST).is_file() and done % 2 == 0 and done < of:
            while not waits_at(beat := json.loads(heartbeat.read_text()) if heartbeat.is_file() else {}):
                time.sleep(0.01)
            steps.append(beat["step"])

    monkeypatch.setattr(trainer, "pause", lambda: time.sleep(0.05))
    maker = threading.Thread(
        target=lambda: pipeline.tokenise(tmp_path / "text", tokenizer, growing, report=until_it_waits, **in_chapters)
    )
    maker.start()
    while not (growing / shards.MANIFEST).is_file():
        time.sleep(0.01)
    assert not shards.read_manifest(growing).complete
    outcome = train_with_stops(config, growing, tmp_path / "model", 20)  # also while it waits
    maker.join()
    assert_same(outcome, whole, tmp_path / "model", tmp_path / "whole")
    assert len(steps) == 3 and shards.read_manifest(growing).complete


def test_settings_and_data_that_do_not_go_together_end_in_one_line(tmp_path):
    data, plain = make_shards(tmp_path / "data", chapters=[4, 4]), make_data(tmp_path / "plain")
    mixed, alone = tiny().with_changes({"data.mixture": MIXTURE}), tiny().with_changes({"data.cross_documents": False})
    cases = [
        (mixed, plain, "data.mixture: found ships, sheep, but .* is not of a mixture"),
        (mixed.with_changes({"data.mixture": MIXTURE[:1]}), data, "data.mixture: found ships, but .* has sheep, ships"),
        (alone, plain, "data.cross_documents: found false, but the tokens in .* do not say where a document ends"),
    ]
    for config, folder, message in cases:
        with pytest.raises(UserError, match=message):
            train(config, folder, tmp_path / "model")
        assert not (tmp_path / "model").exists()
    write_manifest(data, first_chapters(shards.read_manifest(data), 1))
    with pytest.raises(UserError, match=r"data\.mixture"):
        train(mixed, data, tmp_path / "model")
    with pytest.raises(UserError, match="found 'a' twice"):
        tiny().with_changes({"data.mixture": [{"source": "a"}, {"source": "a"}]})
