"""What memory has held is remembered for the same shape, device, precision and memory, and for no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt import durable
from nanogpt.fit import Fit
from nanogpt.machine import memory_bytes
from nanogpt.measure.memory_store import MemoryStore
from nanogpt.units import GIB
from tests.nanogpt.training_case import tiny

pytestmark = pytest.mark.fast
CONFIG = tiny().with_changes({"model.vocab_size": 66})


@pytest.fixture
def store(tmp_path) -> MemoryStore:
    store = MemoryStore(tmp_path, print)
    store.note_limit(CONFIG, 16 * GIB, Fit(3), "killed with 1 % of memory left")
    return store


def test_it_is_found_again_with_its_evidence(store, tmp_path):
    limit = MemoryStore(tmp_path, print).limit(CONFIG, 16 * GIB)
    assert limit.fits == Fit(3) and limit.evidence == "killed with 1 % of memory left" and limit.when


def test_what_was_written_before_there_was_a_digest_still_counts(store, tmp_path):
    known = durable.read_json(store.path)
    del known["digest"]
    durable.write_json(store.path, known)
    assert MemoryStore(tmp_path, print).limit(CONFIG, 16 * GIB).fits == Fit(3)


@pytest.mark.parametrize("change", [
    {"name": "other"}, {"model.dropout": 0.0}, {"training.batch_size": 64}, {"training.learning_rate": 1.0},
    {"device.gradient_checkpointing": True}, {"device.longest_window": 4}, {"device.threads": 2},
])  # fmt: skip
def test_what_does_not_change_the_question_is_no_matter(store, change):
    assert store.limit(CONFIG.with_changes(change), 16 * GIB)


@pytest.mark.parametrize("change", [
    {"model.n_embd": 32}, {"model.vocab_size": 1024}, {"model.block_size": 32}, {"device.type": "cuda"},
    {"training.optimizer": "adamw"}, {"training.weight_average": 0.9},
])  # fmt: skip
def test_another_shape_or_device_has_its_own(store, change):
    assert store.limit(CONFIG.with_changes(change), 16 * GIB) is None


def test_a_machine_with_more_memory_tries_again(store):
    assert store.limit(CONFIG, 8 * GIB) and store.limit(CONFIG, int(16.1 * GIB))
    assert store.limit(CONFIG, 24 * GIB) is None


@given(st.sampled_from([False, True, "bfloat16", "float16", "auto"]), st.sampled_from([False, True]))
def test_what_is_too_much_in_half_precision_is_too_much_in_float32(tmp_path_factory, asked, noted):
    store = MemoryStore(tmp_path_factory.mktemp("store"), print)
    store.note_limit(CONFIG.with_changes({"device.mixed_precision": noted}), GIB, Fit(2), "")
    holds = store.limit(CONFIG.with_changes({"device.mixed_precision": asked}), GIB) is not None
    assert holds == (asked is False or noted is True)


FITS = st.builds(Fit, st.integers(1, 64), st.booleans(), st.sampled_from([None, 4, 8]))


@given(FITS, FITS | st.none())
def test_of_two_limits_the_tighter_holds(tmp_path_factory, half, full):
    store = MemoryStore(tmp_path_factory.mktemp("store"), print)
    store.note_limit(CONFIG.with_changes({"device.mixed_precision": True}), GIB, half, "")
    store.note_limit(CONFIG, GIB, full, "")
    fits = store.limit(CONFIG, GIB).fits
    assert fits in (half, full) if full else fits is None
    if fits:
        assert (fits.longest_window or 99) <= min(half.longest_window or 99, full.longest_window or 99)


def test_a_process_that_may_have_less_than_the_machine_has_counts_that():
    resource = pytest.importorskip("resource")
    whole, (soft, hard) = memory_bytes(), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (whole - 1, hard))
    try:
        assert memory_bytes() == whole - 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("damage", ["cut", "a folder", "a link to itself"])
def test_a_store_that_cannot_be_read_counts_as_none_and_is_reported(store, damage):
    messages = []
    text = store.path.read_text()
    store.path.unlink()
    if damage == "cut":
        store.path.write_text(text[:-9])
    elif damage == "a folder":
        store.path.mkdir()
    else:
        store.path.symlink_to(store.path)
    store = MemoryStore(store.path.parent, messages.append)
    assert store.limit(CONFIG, 16 * GIB) is None and "set aside" in messages[0]
    store.note_limit(CONFIG, 16 * GIB, Fit(2), "again")
    assert store.limit(CONFIG, 16 * GIB).fits == Fit(2) and len(messages) == 1


def test_whichever_bit_flips_the_limit_is_the_same_or_none(store, tmp_path):
    whole = store.path.read_bytes()
    for at in range(len(whole)):
        for bit in (0, 4):
            store.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            limit = MemoryStore(tmp_path, lambda _: None).limit(CONFIG, 16 * GIB)
            assert limit is None or limit.fits == Fit(3), at


def test_what_was_written_before_there_were_records_is_read(tmp_path):
    tried = {"micro_batch": 4, "predicted_bytes": 9, "result": "fits", "tokens_per_second": 2.0,
             "peak_memory_bytes": 8, "repeats": 3}  # fmt: skip
    limit = {"fits": {"micro_batch": 2, "gradient_checkpointing": True, "longest_window": 8}, "evidence": "killed",
             "when": "2026-01-01 00:00:00", "memory_bytes": GIB, "model": "tiny", "device": "cpu",
             "precision": "float32"}  # fmt: skip
    fastest = {"micro_batch": 4, "tokens_per_second": 2.0, "peak_memory_bytes": 8, "tried": [tried]}
    store = MemoryStore(tmp_path, pytest.fail)
    store.note_limit(CONFIG, GIB, Fit(1), "")
    [key] = durable.read_json(store.path)["limits"]
    known = {"limits": {key: limit}, "fastest": {"machine": fastest}}
    durable.write_json(store.path, {**known, "digest": durable.digest(known)})
    assert store.limit(CONFIG, GIB).fits == Fit(2, True, 8)
    found = store.fastest("machine")
    assert (found.micro_batch, found.kept, found.tried[0].fits) == (4, True, True)
