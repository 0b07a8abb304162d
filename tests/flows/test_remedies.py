"""Symptom -> remedy: the table of what is tried, how often, and when nothing is left."""

import pytest

from flows.context.options import CHECKOUT
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
    RETRY_TWICE,
    SHORTEN,
    TABLE,
    Attempt,
    Doctor,
    as_markdown,
)
from nanogpt import faults

pytestmark = pytest.mark.fast

ON_GPU = Attempt(micro_batch=12, device="cuda", mixed_precision=True, longest_window=256)
ON_CPU = Attempt(micro_batch=12, device="cpu", mixed_precision=False, longest_window=256)


def treatment(symptom: str, attempt: Attempt) -> list:
    """Every remedy for one symptom that keeps coming back."""
    doctor, remedies = Doctor(), []
    while (prescription := doctor.prescribe(symptom, attempt)) is not None:
        remedy, attempt = prescription
        remedies.append((remedy, attempt))
    return remedies


@pytest.mark.parametrize("symptom, attempt, remedies", [
    ("out_of_memory", ON_GPU, [HALVE] * 3 + [RECOMPUTE] + [SHORTEN] * 2),
    ("out_of_memory", ON_CPU, [HALVE] * 3 + [RECOMPUTE] + [SHORTEN] * 2),
    ("device", ON_GPU, [RETRY, CPU]),
    ("device", ON_CPU, [RETRY]),
    ("non_finite", ON_GPU, [CPU]),
    ("non_finite", ON_CPU, []),
    ("stall", ON_GPU, [RETRY, CPU]),
    ("stall", ON_CPU, [RETRY]),
    ("killed", ON_CPU, [RETRY_TWICE] * 2 + [HALVE] * 3),
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
def test_a_symptom_that_stays_is_treated_so_and_no_longer(symptom, attempt, remedies):
    assert [remedy for remedy, _ in treatment(symptom, attempt)] == remedies


def test_memory_is_halved_down_to_one_sequence_then_computed_again_then_shortened():
    tried = [attempt for _, attempt in treatment("out_of_memory", ON_CPU)]
    assert [attempt.micro_batch for attempt in tried] == [6, 3, 1, 1, 1, 1]
    assert [attempt.gradient_checkpointing for attempt in tried] == [False] * 3 + [True] * 3
    assert [attempt.longest_window for attempt in tried] == [256] * 4 + [128, 64]
    assert treatment("out_of_memory", tried[-1]) == []


@pytest.mark.parametrize("window", [64, 96, 127])
def test_windows_stay_long_enough_to_learn_from_and_become_the_whole_by_doubling(window):
    assert treatment("out_of_memory", Attempt(1, "cpu", False, window, gradient_checkpointing=True)) == []


def test_a_retry_changes_nothing_and_the_cpu_changes_device_and_precision_only():
    (_, same), (_, moved) = treatment("device", ON_GPU)
    assert same == ON_GPU
    assert moved == ON_CPU


def test_the_cpu_in_mixed_precision_still_has_float32_to_fall_back_on():
    [(remedy, attempt)] = treatment("non_finite", Attempt(12, "cpu", True, 256))
    assert remedy is CPU and attempt == ON_CPU


def test_symptoms_are_counted_apart():
    doctor = Doctor()
    assert doctor.prescribe("device", ON_GPU) == (RETRY, ON_GPU)
    assert doctor.prescribe("crashed", ON_GPU) == (RETRY_TWICE, ON_GPU)
    assert doctor.prescribe("out_of_memory", ON_GPU)[0] is HALVE
    assert doctor.prescribe("device", ON_GPU) == (CPU, ON_CPU)
    assert doctor.prescribe("device", ON_CPU) is None


def test_a_symptom_that_comes_back_after_progress_is_a_new_one_but_not_for_ever():
    doctor, rounds = Doctor(), 0
    while doctor.prescribe("crashed", ON_CPU) is not None:
        assert doctor.prescribe("crashed", ON_CPU) == (RETRY_TWICE, ON_CPU)
        assert doctor.prescribe("crashed", ON_CPU) is None
        doctor.recovered()
        rounds += 1
    assert rounds == IN_ALL // 2


def test_all_remedies_without_progress_between_them_have_a_limit():
    doctor, attempt, given = Doctor(), Attempt(2**20, "cuda", True, 1024), 0
    for symptom in [*TABLE] * 20:
        prescription = doctor.prescribe(symptom, attempt)
        if prescription:
            given, attempt = given + 1, prescription[1]
    assert given == IN_A_ROW
    assert doctor.prescribe("out_of_memory", attempt) is None


def test_every_symptom_that_the_library_names_is_in_the_table():
    named = {faults.OUT_OF_MEMORY, faults.DEVICE, faults.CORRUPT_FILE, faults.NON_FINITE, faults.UNKNOWN,
             faults.DISK_FULL, faults.READ_ONLY}  # fmt: skip
    assert named <= set(TABLE)
    assert faults.OUT_OF_MEMORY in MENDED_BY_THE_TRAINER


def test_the_documents_table_is_this_table():
    assert as_markdown() in (CHECKOUT / "docs/remedies.md").read_text()
