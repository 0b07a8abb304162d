"""Pieces in other processes and on a Dask cluster: in order, whatever is killed, and with a line where it cannot be."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path

import pytest
from distributed import LocalCluster

from nanogpt.config import DataConfig
from nanogpt.corpus import cluster, pipeline
from nanogpt.corpus.executors import Workers, check, run
from nanogpt.faults import UserError
from nanogpt.process.worker import WorkerDied
from nanogpt.sources.document import Piece
from nanogpt.tokenizers.making import make_tokenizer
from tests.nanogpt.executor_work import always_killed, killed_at_first, refused


def test_a_killed_process_costs_its_pieces_alone(tmp_path):
    looks = []
    items = [(str(tmp_path), number) for number in range(8)]
    assert list(run(killed_at_first, items, Workers(2), lambda: looks.append(1))) == list(range(0, 16, 2))
    assert (tmp_path / "killed").exists() and looks


def test_a_piece_that_ends_every_process_ends_the_work():
    results = run(always_killed, range(3), Workers(2))
    with pytest.raises(WorkerDied, match="3 times a process that prepares text ended"):
        list(results)


@pytest.mark.parametrize("workers", [Workers(1), Workers(2)])
def test_an_error_arrives_as_it_is(workers):
    with pytest.raises(UserError, match=r"^number 1 is not liked$"):
        list(run(refused, range(3), workers))


@pytest.fixture(scope="module")
def dask():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as there:
        yield there


@pytest.fixture
def on_dask(dask):
    """Workers of a cluster that is there."""
    return Workers(on=dask.scheduler_address)


def test_a_cluster_that_would_make_other_bytes_or_is_elsewhere_is_refused(on_dask, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"has nanogpt .* \(here 0\.0\)"):
        patch.setattr(cluster, "__version__", "0.0")
        check(on_dask, tmp_path)
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"does not see .*; all workers have to share it"),
    ):
        patch.setattr(cluster.durable, "write_text", lambda path, text: None)  # as where the disk is another one
        check(on_dask, tmp_path)
    with pytest.raises(UserError, match=r"^number 1 is not liked$"):
        list(run(refused, range(3), on_dask))
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 0.2)
    with pytest.raises(UserError, match=r"--on 127\.0\.0\.1:1: no scheduler of Dask answers there"):
        list(run(refused, range(3), Workers(on="127.0.0.1:1")))


def test_a_corpus_has_the_same_bytes_on_a_cluster_that_loses_a_worker(dask, on_dask, tmp_path, monkeypatch):
    generator = random.Random(0)
    words = [f"word{number}" for number in range(500)]
    for number in range(6):
        texts = [" ".join(generator.choices(words, k=80)) for _ in range(40)]
        lines = [json.dumps({"text": text}) + "\n" for text in [*texts, texts[0]]]
        (tmp_path / f"{number}.jsonl").write_text("".join(lines))
    pieces = [Piece("jsonl", str(path), "text") for path in sorted(tmp_path.glob("*.jsonl"))]

    def killed(what: str, done: int, of: int) -> None:
        if (what, done) == ("pieces read", 1):
            os.kill(dask.workers[0].pid, signal.SIGKILL)

    monkeypatch.chdir(tmp_path)  # which is not the workers' folder
    check(on_dask, tmp_path)
    assert prepared(pieces, Path("cluster"), on_dask, killed) == prepared(pieces, Path("alone"), Workers())


def prepared(pieces, folder, workers, report=lambda what, done, of: None) -> dict[str, bytes]:
    """The files of a data folder of them."""
    config = DataConfig()
    statistics = pipeline.prepare(pieces, folder / "text", config, workers=workers, report=report)
    assert statistics.duplicates_removed == len(pieces)
    tokenizer = make_tokenizer("byte", [], folder, config)
    pipeline.tokenise(folder / "text", tokenizer, folder, workers=workers, report=report)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
