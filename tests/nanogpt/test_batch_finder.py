"""The search for the fastest micro-batch, with steps that are made up, and with children that fail and die."""

import json
import os
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.faults import UserError
from nanogpt.fit import Fit
from nanogpt.measure import batch_finder
from nanogpt.measure.batch_finder import SeparateProcess, find, find_for
from nanogpt.measure.memory import likely_precision, predict
from nanogpt.measure.memory_store import STORE, MemoryStore
from nanogpt.process.worker import WorkerDied
from nanogpt.results.speed import MicroBatchTry
from tests.nanogpt.training_case import tiny

PLENTY = 2**40
TRIES = "tests.nanogpt.faulty_tries"


def config(sequences: int = 64, **training):
    return tiny(batch_size=sequences, **training).with_changes({"model.vocab_size": 50})


def fitting(micro_batch: int, speed: float, peak: int) -> MicroBatchTry:
    return MicroBatchTry(micro_batch, "fits", tokens_per_second=speed, peak_memory_bytes=peak, repeats=3)


def machine(speed, fits=PLENTY):
    """An attempt by a made-up machine: tokens/s by micro-batch, and the largest that fits."""

    def attempt(_, micro_batch, seconds):
        if micro_batch > fits:
            return MicroBatchTry(micro_batch, "out of memory, made up")
        return fitting(micro_batch, speed(micro_batch), 1000 * micro_batch)

    return attempt


def search(folder, attempt, sequences=64, available=PLENTY, seconds=60.0):
    messages = []
    return find(config(sequences), folder, seconds, messages.append, attempt, available), messages


def sizes(found) -> list[int]:
    return [row.micro_batch for row in found.tried]


def test_doubles_up_to_the_whole_batch(tmp_path):
    found, messages = search(tmp_path, machine(lambda size: size), sequences=24)
    assert sizes(found) == [1, 2, 4, 8, 16, 24] and found.micro_batch == 24
    assert len(messages) == 6 and "tokens/s" in messages[0]


def test_the_fastest_is_taken_not_the_largest(tmp_path):
    found, _ = search(tmp_path, machine(lambda size: {4: 100.0}.get(size, 50.0)))
    assert found.micro_batch == 4
    assert max(sizes(found)) == 16  # two larger ones were slower: no more are tried


def test_a_smaller_one_is_taken_when_the_gain_is_noise(tmp_path):
    found, _ = search(tmp_path, machine(lambda size: 100 - 1 / size))
    assert found.micro_batch == 1


@given(st.integers(1, 100), st.integers(1, 100))
def test_bisection_comes_close_to_what_fits(tmp_path_factory, sequences, fits):
    found, _ = search(tmp_path_factory.mktemp("store"), machine(lambda size: size, fits), sequences)
    largest = min(sequences, fits)
    assert found.micro_batch <= largest
    assert found.micro_batch >= largest - max(1, largest // batch_finder.SMALLEST_GAP)
    assert len(found.tried) <= 12


def test_what_is_predicted_not_to_fit_is_not_tried(tmp_path):
    predicted = predict(config(), micro_batch=8, newton_schulz=likely_precision("cpu")).total
    asked = []

    def attempt(_, micro_batch, seconds):
        asked.append(micro_batch)
        return machine(lambda size: size)(_, micro_batch, seconds)

    found, _ = search(tmp_path, attempt, available=int(predicted * batch_finder.MARGIN) + 1)
    assert max(asked) == found.micro_batch == 8
    assert any(row.result.startswith("not tried") for row in found.tried)
    assert not search(tmp_path, attempt)[0].kept  # with more memory free the answer is another


def test_when_not_even_one_sequence_fits_it_is_a_persons_mistake(tmp_path):
    with pytest.raises(UserError, match="not even one sequence"):
        search(tmp_path, machine(lambda size: size, fits=0))
    assert not (tmp_path / STORE).exists()


def test_no_try_begins_after_the_time(tmp_path):
    found, _ = search(tmp_path, machine(lambda size: size), seconds=0.0)
    assert sizes(found) == [1]
    assert not search(tmp_path, machine(lambda size: size))[0].kept  # half an answer is not remembered


def test_what_had_no_time_for_bisection_is_not_remembered(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(batch_finder, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def attempt(settings, micro_batch, seconds):
        now[0] += 60.0 * (micro_batch == 16)  # the first that does not fit: its process was killed late
        return machine(lambda size: size, fits=12)(settings, micro_batch, seconds)

    assert search(tmp_path, attempt)[0].micro_batch == 8
    found, _ = search(tmp_path, machine(lambda size: size, fits=12))
    assert (found.micro_batch, found.kept) == (12, False)


def test_what_was_found_is_kept_for_the_same_question_only(tmp_path):
    first, _ = search(tmp_path, machine(lambda size: size))
    again, messages = search(tmp_path, None)
    assert again.kept and not first.kept and messages == []
    assert (again.micro_batch, again.tried) == (first.micro_batch, first.tried)
    other, _ = search(tmp_path, machine(lambda size: 1 / size), sequences=32)
    assert not other.kept and other.micro_batch == 1
    assert search(tmp_path, None)[0].kept  # both are kept side by side


def test_what_a_training_has_found_to_be_too_much_is_not_tried_and_no_longer_taken(tmp_path):
    store = MemoryStore(tmp_path, print)
    assert search(tmp_path, machine(lambda size: size))[0].micro_batch == 64
    store.note_limit(config(), PLENTY, Fit(12), "out of memory with 24")
    found, _ = search(tmp_path, machine(lambda size: size))
    assert not found.kept and max(sizes(found)) == found.micro_batch == 12
    assert search(tmp_path, None)[0].kept
    store.note_limit(config(), PLENTY, Fit(1, gradient_checkpointing=True), "out of memory with 1")
    assert search(tmp_path, None)[0].micro_batch == 12  # it says nothing of what keeps its activations


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": null}', '{"limits": {}, "fastest": {"key": null}}',
                                    '{"limits": {"key": {"fits": null}}, "fastest": {}}'])  # fmt: skip
def test_a_file_that_is_not_what_was_written_is_set_aside(tmp_path, damage):
    store = tmp_path / STORE
    store.write_text(damage)
    found, messages = search(tmp_path, machine(lambda size: size))
    assert not found.kept and "is not what was written" in messages[0]
    assert store.with_name(f"{store.name}.bad").read_text() == damage
    assert len(json.loads(store.read_text())["fastest"]) == 1


# ---- a process of its own


@pytest.mark.parametrize(
    "target, words",
    [
        ("runs_out_of_memory", "DefaultCPUAllocator"),
        ("aborts_without_memory", "SIGABRT"),
    ],
)
def test_a_child_that_runs_out_of_memory_is_an_answer_and_a_new_one_takes_its_place(tmp_path, target, words):
    with closing(SeparateProcess(tmp_path / "log", f"{TRIES}:{target}")) as apart:
        found = find(config(4), tmp_path, 60.0, lambda text: None, apart, PLENTY)
    rows = {row.micro_batch: row for row in found.tried}
    assert sizes(found) == [1, 2, 3, 4] and found.micro_batch == 2
    assert words in rows[4].result and "out of memory" in rows[4].result
    assert rows[1].peak_memory_bytes == rows[2].peak_memory_bytes != os.getpid()  # one process for both


@pytest.mark.parametrize("target, words", [("is_broken", "not a matter of memory"), ("is_asked_to_end", "SIGTERM")])
def test_what_is_no_matter_of_memory_is_raised(tmp_path, target, words):
    separate = SeparateProcess(tmp_path / "log", f"{TRIES}:{target}")
    with closing(separate), pytest.raises((ValueError, WorkerDied), match=words):
        separate(config(), 1, 1.0)


def test_real_steps_are_timed_apart(tmp_path):
    found = find_for(config(2).model_dump(), str(tmp_path), 40.0)
    assert found.micro_batch in (1, 2) and not found.kept
    assert all(row.tokens_per_second > 0 and row.peak_memory_bytes >= 0 for row in found.tried)
    assert find_for(config(2).model_dump(), str(tmp_path), 40.0) == replace(found, kept=True)
