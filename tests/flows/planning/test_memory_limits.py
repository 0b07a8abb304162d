"""What ran out of memory is remembered for every run of a workspace; what a person sets is stronger."""

import errno

import pytest

from flows.context.paths import CHECKOUT
from flows.planning.memory_limits import MemoryLimits
from flows.planning.site import Site
from nanogpt.config import Config, load_config
from nanogpt.fit import Fit
from nanogpt.measure.memory_store import MemoryStore
from nanogpt.units import GIB
from tests.flows.parts import SITE, Parts

pytestmark = pytest.mark.fast
FOR_MEMORY = Fit(3, gradient_checkpointing=True, longest_window=64)


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(tmp_path)


@pytest.fixture
def limits(parts):
    """The limits as a run knows them in which a person has set some keys, and which began at some time."""

    def limits(*pinned: str, started: str = "") -> MemoryLimits:
        return MemoryLimits(parts.paths.all_states, parts.journal, frozenset(pinned), lambda: started)

    return limits


def tiny(**changes) -> Config:
    return load_config(CHECKOUT / "configs/tiny_model.yaml").with_changes({"data.tokenizer": "char", **changes})


def test_what_fitted_is_how_the_next_run_begins(limits, parts):
    limits().note(tiny(), SITE, FOR_MEMORY, "killed")
    assert Fit.of(limits().as_it_fitted(tiny(), SITE)) == Fit(3, True, 64, "auto")
    assert "tiny_model: micro-batch 3, gradient checkpointing, windows of 64 tokens, as it fitted on" in parts.log
    assert limits().too_large([tiny()], SITE) == {}


def test_an_accelerators_fit_is_kept_without_what_only_a_device_decides(limits):
    site = Site("mps", 16 * GIB, 65)
    limits().note(tiny(), site, Fit(6, device="mps", precision="bfloat16"), "MPS backend out of memory")
    assert limits().limit(tiny(), site).fits == Fit(6)
    assert limits().limit(tiny(), SITE) is None  # the CPU has its own memory


def test_with_more_memory_than_then_it_is_tried_again(limits):
    limits().note(tiny(), SITE, None, "killed")
    assert "killed" in limits().too_large([tiny()], SITE)["tiny_model"]
    assert limits().too_large([tiny()], Site("cpu", 128 * GIB, 65)) == {}


@pytest.mark.parametrize("key", ["training.batch_size", "training.gradient_accumulation"])
def test_a_step_that_a_person_has_split_is_tried_once_in_each_run(limits, key):
    limits().note(tiny(), SITE, FOR_MEMORY, "killed")
    assert limits(key).as_it_fitted(tiny(), SITE) == tiny()
    assert limits(key, started="2099-01-01 00:00:00").limit(tiny(), SITE) is None
    assert limits(key, started="2026-01-01 00:00:00").limit(tiny(), SITE).fits == FOR_MEMORY


def test_how_a_person_wants_it_computed_stays(limits):
    limits().note(tiny(), SITE, FOR_MEMORY, "killed")
    kept = limits("device.gradient_checkpointing", "device.longest_window").as_it_fitted(tiny(), SITE)
    assert (kept.device.gradient_checkpointing, kept.device.longest_window) == (False, None)
    assert kept.training.batch_size == 3


def test_a_disk_that_cannot_keep_what_fitted_ends_nothing(limits, parts, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MemoryStore, "note_limit", full)
    limits().note(tiny(), SITE, None, "refused")
    assert "could not be remembered" in parts.log


def test_a_damaged_store_counts_as_none_and_a_person_reads_of_it(limits, parts):
    (parts.paths.all_states / "memory.json").write_text("{")
    assert limits().limit(tiny(), SITE) is None
    assert any(level == "warning" and "set aside" in message for level, message in parts.display.notes)
