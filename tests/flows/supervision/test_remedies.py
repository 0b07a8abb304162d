"""Symptom -> remedy: the table of what is tried, how often, and when nothing is left."""

import pytest

from flows.context.paths import CHECKOUT
from flows.supervision.remedies import (
    CPU,
    HALVE,
    IN_A_ROW,
    IN_ALL,
    MAKE_ROOM,
    MENDED_BY_THE_TRAINER,
    RECOMPUTE,
    REMAKE,
    RETRY,
    RETRY_OFTEN,
    RETRY_TWICE,
    SHORTEN,
    TABLE,
    Remedy,
    RemedyChooser,
    as_markdown,
)
from nanogpt import faults
from nanogpt.config import Config
from nanogpt.fit import Fit
from nanogpt.process import endings

pytestmark = pytest.mark.fast

CONFIG = Config.model_validate({"model": {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 256},
                                "training": {"batch_size": 12}})  # fmt: skip
ON_GPU = Fit(12, device="cuda", precision="bfloat16")
ON_CPU = Fit(12, device="cpu", precision="float32")


def chosen(symptom: str, fit: Fit) -> list[tuple[Remedy, Fit]]:
    """Every remedy for one symptom that keeps coming back, and how the training is computed then."""
    chooser, remedies = RemedyChooser(CONFIG), []
    while (choice := chooser.choose(symptom, fit)) is not None:
        fit = choice[1]
        remedies.append(choice)
    return remedies


@pytest.mark.parametrize("symptom, fit, remedies", [
    ("out_of_memory", ON_GPU, [HALVE] * 3 + [RECOMPUTE] + [SHORTEN] * 2),
    ("out_of_memory", ON_CPU, [HALVE] * 3 + [RECOMPUTE] + [SHORTEN] * 2),
    ("device", ON_GPU, [RETRY, CPU]),
    ("device", ON_CPU, [RETRY]),
    ("non_finite", ON_GPU, [CPU]),
    ("non_finite", ON_CPU, []),
    ("stall", ON_GPU, [RETRY, CPU]),
    ("stall", ON_CPU, [RETRY]),
    ("killed", ON_CPU, [RETRY_OFTEN] * 8),
    ("killed", ON_GPU, [RETRY_OFTEN] * 8),
    ("aborted", ON_CPU, [RETRY_TWICE] * 2),
    ("stopped", ON_CPU, [RETRY_TWICE] * 2),
    ("crashed", ON_GPU, [RETRY_TWICE] * 2 + [CPU]),
    ("unknown", ON_CPU, [RETRY_TWICE] * 2),
    ("corrupt_file", ON_CPU, [REMAKE] * 2),
    ("disk_full", ON_CPU, [MAKE_ROOM] * 8),
    ("user_error", ON_GPU, []),
    ("read_only", ON_GPU, []),
    ("never heard of", ON_GPU, []),
])  # fmt: skip
def test_a_symptom_that_stays_has_these_remedies_and_no_more(symptom, fit, remedies):
    assert [remedy for remedy, _ in chosen(symptom, fit)] == remedies


@pytest.mark.parametrize("symptom", [symptom for symptom in TABLE if symptom != "out_of_memory"])
def test_only_a_lack_of_memory_changes_the_micro_batch(symptom):
    assert {fit.micro_batch for _, fit in chosen(symptom, ON_GPU)} <= {12}


def test_memory_is_halved_down_to_one_sequence_then_computed_again_then_shortened():
    tried = [fit for _, fit in chosen("out_of_memory", ON_CPU)]
    assert [fit.micro_batch for fit in tried] == [6, 3, 1, 1, 1, 1]
    assert [fit.gradient_checkpointing for fit in tried] == [False] * 3 + [True] * 3
    assert [fit.longest_window for fit in tried] == [None] * 4 + [128, 64]
    assert chosen("out_of_memory", tried[-1]) == []


def test_a_retry_changes_nothing_and_the_cpu_changes_device_and_precision_only():
    (_, same), (_, moved) = chosen("device", ON_GPU)
    assert same == ON_GPU
    assert moved == ON_CPU


def test_the_cpu_in_mixed_precision_still_has_float32_to_fall_back_on():
    [(remedy, fit)] = chosen("non_finite", Fit(12, device="cpu", precision="bfloat16"))
    assert remedy is CPU and fit == ON_CPU


def test_symptoms_are_counted_apart():
    chooser = RemedyChooser(CONFIG)
    assert chooser.choose("device", ON_GPU) == (RETRY, ON_GPU)
    assert chooser.choose("crashed", ON_GPU) == (RETRY_TWICE, ON_GPU)
    assert chooser.choose("out_of_memory", ON_GPU)[0] is HALVE
    assert chooser.choose("device", ON_GPU) == (CPU, ON_CPU)
    assert chooser.choose("device", ON_CPU) is None


def test_a_symptom_that_comes_back_after_progress_is_a_new_one_but_not_forever():
    chooser, rounds = RemedyChooser(CONFIG), 0
    while chooser.choose("crashed", ON_CPU) is not None:
        assert chooser.choose("crashed", ON_CPU) == (RETRY_TWICE, ON_CPU)
        assert chooser.choose("crashed", ON_CPU) is None
        chooser.recovered()
        rounds += 1
    assert rounds == IN_ALL // 2


def test_all_remedies_without_progress_between_them_have_a_limit():
    chooser, fit, given = RemedyChooser(CONFIG), ON_GPU, 0
    for symptom in [*TABLE] * 20:
        if choice := chooser.choose(symptom, fit):
            given, fit = given + 1, choice[1]
    assert given == IN_A_ROW
    assert chooser.choose("out_of_memory", fit) is None


def test_every_symptom_that_the_library_names_is_in_the_table():
    named = {faults.OUT_OF_MEMORY, faults.DEVICE, faults.CORRUPT_FILE, faults.NON_FINITE, faults.UNKNOWN,
             faults.DISK_FULL, faults.READ_ONLY, faults.MEDIUM, endings.KILLED, endings.ABORTED, endings.CRASHED,
             endings.STALL}  # fmt: skip
    assert named <= set(TABLE)
    assert faults.OUT_OF_MEMORY in MENDED_BY_THE_TRAINER


def test_the_table_in_the_documents_is_this_table():
    assert as_markdown() in (CHECKOUT / "docs/remedies.md").read_text()
