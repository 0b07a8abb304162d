"""A training of a mixture, of documents by themselves, with noise, and of data that is still being made: whole, and
stopped anywhere, with the same bytes."""

import json
import threading
import time

import numpy as np
import pytest

from nanogpt.data import shards
from nanogpt.data.chapters import Chapters
from nanogpt.data.mixture import Mixture
from nanogpt.faults import UserError
from nanogpt.training import trainer
from nanogpt.training.record.metrics import read_metrics
from nanogpt.training.record.tracking import curves
from nanogpt.training.trainer import train
from tests.nanogpt.shards_case import first_chapters, make_shards, write_manifest
from tests.nanogpt.training_case import assert_same, make_data, tiny, train_with_stops

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
    data, config = make_shards(tmp_path / "data", chapters=[2, 2, 1, 3]), tiny(batch_size=20)
    whole = train(config, data, tmp_path / "whole")
    finished = shards.read_manifest(data)
    assert Chapters(data, 16, 0)._ends[-2] < 24 * 20
    write_manifest(data, first_chapters(finished, 1))
    seen = []

    def make() -> None:  # a chapter whenever the training has said that it waits
        for count in (2, 3, 4):
            while json.loads(heartbeat.read_text())["activity"] != "waiting for more of the data":
                time.sleep(0.01)
            seen.append(json.loads(heartbeat.read_text())["step"])
            write_manifest(data, first_chapters(finished, count))
            time.sleep(0.3)

    heartbeat = tmp_path / "growing" / "heartbeat"
    heartbeat.parent.mkdir()
    heartbeat.write_text('{"activity": ""}')
    monkeypatch.setattr(trainer, "pause", lambda: time.sleep(0.05))
    maker = threading.Thread(target=make)
    maker.start()
    growing = train(config, data, tmp_path / "growing")
    maker.join()
    assert_same(growing, whole, tmp_path / "growing", tmp_path / "whole")
    assert len(set(seen)) == 3 and shards.read_manifest(data).complete


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
