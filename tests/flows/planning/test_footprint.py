"""What a model takes is known before it is built, and the micro-batch is made to fit while the step stays."""

import pytest

from flows.cli.command_line import parse
from flows.context.paths import CHECKOUT
from flows.full_run import PHASES
from flows.planning import footprint
from flows.planning.site import Site
from nanogpt.config import Config, load_config
from nanogpt.fit import Fit
from nanogpt.units import GIB

pytestmark = pytest.mark.fast


def shipped(name: str, **changes) -> Config:
    config = load_config(CHECKOUT / f"configs/{name}.yaml").with_changes({"data.tokenizer": "bpe", **changes})
    return footprint.with_vocabulary(config)


def test_larger_models_need_more_memory_and_more_disk():
    models = [shipped(name) for name in ("micro", "tiny_model", "small_model", "medium_model", "large_model")]
    in_single_sequences = [Fit(1).applied_to(model) for model in models]
    for needed in ([footprint.memory_needed(model, "cpu") for model in in_single_sequences],
                   [footprint.disk_needed(model) for model in models]):  # fmt: skip
        assert needed == sorted(needed) and len(set(needed)) == len(needed)


def test_a_model_that_has_room_is_left_as_it_is():
    model = shipped("medium_model")
    assert footprint.fitted(model, "cpu", 100 * GIB) == model


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_a_model_is_made_to_fit_by_smaller_micro_batches_of_the_same_step(micro_batch):
    model = shipped("medium_model")
    just_enough = footprint.memory_needed(Fit(micro_batch).applied_to(model), "cpu")
    fitted = footprint.fitted(model, "cpu", just_enough)
    assert (fitted.training.batch_size, fitted.training.gradient_accumulation) == (micro_batch, 16 // micro_batch)
    assert footprint.memory_needed(fitted, "cpu") <= just_enough


def test_a_model_may_not_fit_even_with_one_sequence():
    assert footprint.fitted(shipped("large_model"), "cpu", 8 * GIB) is None
    assert footprint.fitted(shipped("large_model"), "cpu", Site("cpu", 24 * 10**9, 65).training_bytes) is not None


def test_a_person_who_asks_for_float32_reads_what_float32_takes():
    free, asked = (shipped("medium_model", **{"device.mixed_precision": value}) for value in ("auto", False))
    assert footprint.memory_needed(asked, "cpu") > footprint.memory_needed(free, "cpu")


def test_an_accelerators_memory_is_its_own_and_the_machines_is_shared():
    assert Site("cuda", 24 * GIB, 65).training_bytes > Site("cpu", 24 * GIB, 65).training_bytes


def test_a_models_own_way_to_compute_holds_unless_the_run_says_otherwise(tmp_path):
    ladder = ["--workspace", str(tmp_path), "--set", "ladder=[micro, large_model]"]
    micro, large = parse(ladder, PHASES).candidates
    assert large.device.gradient_checkpointing and not micro.device.gradient_checkpointing
    changes = ["--set", "device.gradient_checkpointing=false", "--set", "device.threads=3"]
    asked = parse([*ladder, *changes], PHASES).candidates
    assert not any(model.device.gradient_checkpointing for model in asked)
    assert {model.device.threads for model in asked} == {3}
