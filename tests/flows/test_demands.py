"""What a model demands is told before it is built, and the micro-batch is made to fit while the step stays."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.context.options import CHECKOUT, parse
from flows.planning import footprint as demands
from nanogpt.config import load_config

pytestmark = pytest.mark.fast
GIB = 2**30


def rung(name: str, **changes):
    config = load_config(CHECKOUT / f"configs/{name}.yaml").with_changes({"data.tokenizer": "bpe", **changes})
    return demands.with_vocabulary(config)


def test_larger_models_need_more_memory_and_more_disk():
    rungs = [rung(name) for name in ("micro", "tiny_model", "small_model", "medium_model", "large_model")]
    for needed in ([demands.memory_needed(model, "cpu", micro_batch=1) for model in rungs],
                   [demands.disk_needed(model) for model in rungs]):  # fmt: skip
        assert needed == sorted(needed) and len(set(needed)) == len(needed)


def test_a_model_that_has_room_is_left_as_it_is():
    model = rung("medium_model")
    assert demands.fitted(model, "cpu", 100 * GIB) == model


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_a_model_is_made_to_fit_by_smaller_micro_batches_of_the_same_step(micro_batch):
    model = rung("medium_model")
    just_enough = demands.memory_needed(model, "cpu", micro_batch)
    fitted = demands.fitted(model, "cpu", just_enough)
    assert (fitted.training.batch_size, fitted.training.gradient_accumulation) == (micro_batch, 16 // micro_batch)
    assert demands.memory_needed(fitted, "cpu") <= just_enough


def test_a_model_that_does_not_fit_even_with_one_sequence_is_told():
    assert demands.fitted(rung("large_model"), "cpu", 8 * GIB) is None
    assert demands.fitted(rung("large_model"), "cpu", demands.room("cpu", 24 * 10**9)) is not None


def test_a_person_who_asks_for_float32_is_told_what_float32_takes():
    free, asked = (rung("medium_model", **{"device.mixed_precision": value}) for value in ("auto", False))
    assert demands.memory_needed(asked, "cpu") > demands.memory_needed(free, "cpu")


@given(st.integers(1, 64), st.integers(1, 64))
def test_smaller_micro_batches_divide_the_step_and_end_at_one(batch, accumulation):
    sizes = demands.halved(batch, batch * accumulation)
    assert sizes[0] == batch and sizes[-1] == 1
    assert all(batch * accumulation % size == 0 for size in sizes)
    assert all(after <= before // 2 for before, after in pairwise(sizes))


def test_an_accelerators_memory_is_its_own_and_the_machines_is_shared():
    assert demands.room("cuda", 24 * GIB) > demands.room("cpu", 24 * GIB)


def test_a_models_own_way_to_compute_holds_unless_the_run_says_otherwise(tmp_path):
    ladder = ["--workspace", str(tmp_path), "--set", "ladder=[micro, large_model]"]
    micro, large = parse(ladder).rungs
    assert large.device.gradient_checkpointing and not micro.device.gradient_checkpointing
    asked = parse([*ladder, "--set", "device.gradient_checkpointing=false", "--set", "device.threads=3"]).rungs
    assert not any(rung.device.gradient_checkpointing for rung in asked)
    assert {rung.device.threads for rung in asked} == {3}
