"""Symptom -> remedy: the table of what is tried, how often, and when nothing is left."""

import pytest

from flows.remedies import CPU, HALVE, RETRY, RETRY_OFTEN, TABLE, TOTAL_LIMIT, Attempt, Doctor
from nanogpt import faults

pytestmark = pytest.mark.fast

ON_GPU = Attempt(micro_batch=12, device="cuda", mixed_precision=True)
ON_CPU = Attempt(micro_batch=12, device="cpu", mixed_precision=False)


def treatment(symptom: str, attempt: Attempt) -> list:
    """Every remedy for one symptom that keeps coming back."""
    doctor, remedies = Doctor(), []
    while (prescription := doctor.prescribe(symptom, attempt)) is not None:
        remedy, attempt = prescription
        remedies.append((remedy, attempt))
    return remedies


@pytest.mark.parametrize("symptom, attempt, remedies", [
    ("out_of_memory", ON_GPU, [HALVE] * 3),
    ("out_of_memory", ON_CPU, [HALVE] * 3),
    ("device", ON_GPU, [RETRY, CPU]),
    ("device", ON_CPU, [RETRY]),
    ("non_finite", ON_GPU, [CPU]),
    ("non_finite", ON_CPU, []),
    ("stall", ON_GPU, [RETRY, CPU]),
    ("stall", ON_CPU, [RETRY]),
    ("killed", ON_CPU, [RETRY_OFTEN] * 3),
    ("stopped", ON_CPU, [RETRY]),
    ("crashed", ON_CPU, [RETRY]),
    ("unknown", ON_CPU, [RETRY]),
    ("corrupt_file", ON_CPU, [RETRY]),
    ("user_error", ON_GPU, []),
    ("disk_full", ON_GPU, []),
    ("read_only", ON_GPU, []),
    ("never heard of", ON_GPU, []),
])  # fmt: skip
def test_a_symptom_that_stays_is_treated_so_and_no_longer(symptom, attempt, remedies):
    assert [remedy for remedy, _ in treatment(symptom, attempt)] == remedies


def test_memory_is_halved_down_to_one_sequence():
    assert [attempt.micro_batch for _, attempt in treatment("out_of_memory", ON_GPU)] == [6, 3, 1]
    assert treatment("out_of_memory", Attempt(1, "cpu", False)) == []


def test_a_retry_changes_nothing_and_the_cpu_changes_device_and_precision_only():
    (_, same), (_, moved) = treatment("device", ON_GPU)
    assert same == ON_GPU
    assert moved == ON_CPU


def test_the_cpu_in_mixed_precision_still_has_float32_to_fall_back_on():
    [(remedy, attempt)] = treatment("non_finite", Attempt(12, "cpu", True))
    assert remedy is CPU and attempt == ON_CPU


def test_symptoms_are_counted_apart():
    doctor = Doctor()
    assert doctor.prescribe("device", ON_GPU) == (RETRY, ON_GPU)
    assert doctor.prescribe("crashed", ON_GPU) == (RETRY, ON_GPU)
    assert doctor.prescribe("out_of_memory", ON_GPU)[0] is HALVE
    assert doctor.prescribe("device", ON_GPU) == (CPU, ON_CPU)
    assert doctor.prescribe("device", ON_CPU) is None


def test_a_symptom_that_comes_back_after_progress_is_a_new_one():
    doctor = Doctor()
    for _ in range(3):
        assert doctor.prescribe("crashed", ON_CPU) == (RETRY, ON_CPU)
        assert doctor.prescribe("crashed", ON_CPU) is None
        doctor.recovered()


def test_all_remedies_together_have_a_limit():
    doctor, attempt, given = Doctor(), Attempt(2**20, "cuda", True), 0
    for symptom in [*TABLE] * 20:
        prescription = doctor.prescribe(symptom, attempt)
        if prescription:
            given, attempt = given + 1, prescription[1]
    assert given == TOTAL_LIMIT
    assert doctor.prescribe("out_of_memory", attempt) is None


def test_every_symptom_that_the_library_names_is_treated_or_left_on_purpose():
    named = {faults.OUT_OF_MEMORY, faults.DEVICE, faults.CORRUPT_FILE, faults.NON_FINITE, faults.UNKNOWN}
    assert named <= set(TABLE)
    assert not {faults.DISK_FULL, faults.READ_ONLY} & set(TABLE)
