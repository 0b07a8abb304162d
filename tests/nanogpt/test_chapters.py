"""A training that begins while shards are made sees the samples of one that begins afterwards."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nanogpt.data import chapters, shards
from nanogpt.data.chapters import Chapters
from nanogpt.faults import CorruptFileError, UserError
from tests.nanogpt.shards_case import first_chapters, make_shards, write_manifest

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path):
    return make_shards(tmp_path / "data", chapters=[1, 3, 3, 1])


def test_samples_wait_for_their_chapter_and_are_those_of_the_finished_folder(folder):
    finished, whole = Chapters(folder, 16, 5), shards.read_manifest(folder)
    windows = int(finished._ends[-1])
    expected = [finished.batch(first, 40)[0] for first in range(0, 2 * windows, 40)]
    waits = []

    def another() -> None:
        waits.append(1)
        write_manifest(folder, first_chapters(whole, 1 + len(waits) // 2))  # each second look finds one more

    write_manifest(folder, first_chapters(whole, 1))
    growing = Chapters(folder, 16, 5, wait=another)
    assert not growing.is_ready(0, 2 * windows) and growing.is_ready(0, int(finished._ends[0])) and not waits
    for first, batch in zip(range(0, 2 * windows, 40), expected, strict=True):
        assert torch.equal(growing.batch(first, 40)[0], batch)
    assert len(waits) == 6 and growing.complete


def test_an_epoch_reads_each_chapter_whole_and_shuffled_before_the_next(folder):
    samples, tokens = Chapters(folder, 16, 5), np.asarray(shards.open_split(folder, "train").tokens)
    for epoch in range(2):
        begin = 0
        for chapter, end in zip(samples.chapters, samples._ends, strict=True):
            rows = [samples.window(int(epoch * samples._ends[-1]) + index) for index in range(begin, end)]
            joined = np.asarray(chapter)
            starts = [next(place for place in range(len(joined)) if np.array_equal(joined[place : place + 17], row))
                      for row in rows[:6]]  # fmt: skip
            assert starts != sorted(starts) and len(rows) == len(joined) // 16 - 1
            begin = int(end)
    assert len(tokens) == sum(map(len, samples.chapters))


def test_data_that_is_no_longer_made_or_made_anew_ends_in_one_line(folder, monkeypatch):
    whole = shards.read_manifest(folder)
    write_manifest(folder, first_chapters(whole, 2))
    monkeypatch.setattr(chapters, "PATIENCE", 0.0)
    growing = Chapters(folder, 16, 5, wait=lambda: None)
    with pytest.raises(UserError, match=r"is not complete, and no shard was added for .* nanogpt prepare"):
        growing.batch(10_000, 1)
    write_manifest(folder, first_chapters(whole, 4).__class__(**{**whole.__dict__, "plan": "2" * 64}))
    with pytest.raises(CorruptFileError, match="written anew"):
        growing.batch(10_000, 1)


@pytest.mark.parametrize("sizes", [[-1, 9], [1], [100], [8, 0]])
def test_chapters_are_those_of_the_shards(sizes, folder):
    write_manifest(folder, replace(shards.read_manifest(folder), chapters=sizes))
    with pytest.raises(CorruptFileError, match="chapters are not those of its 8 shards"):
        Chapters(folder, 16, 5)
