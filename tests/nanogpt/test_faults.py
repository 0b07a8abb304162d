"""Each failure in the wording that torch, numpy and the kernels really use is reported as its symptom."""

import errno
import random

import pytest

from nanogpt import faults
from nanogpt.faults import classify, nearest, symptom_in

pytestmark = pytest.mark.fast


class OutOfMemoryError(RuntimeError):
    """Named as torch.OutOfMemoryError is."""


class AcceleratorError(RuntimeError):
    """Named as torch.AcceleratorError is."""


CASES = [
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), faults.OUT_OF_MEMORY),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1 GB)"), faults.OUT_OF_MEMORY),
    (RuntimeError("Invalid buffer size: 15.26 GB"), faults.OUT_OF_MEMORY),
    (RuntimeError("could not create a primitive"),
     faults.OUT_OF_MEMORY),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
     faults.OUT_OF_MEMORY),
    (MemoryError(), faults.OUT_OF_MEMORY),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), faults.OUT_OF_MEMORY),
    (AcceleratorError("CUDA error: out of memory"), faults.OUT_OF_MEMORY),
    (AcceleratorError("CUDA error: an illegal memory access was encountered"), faults.DEVICE),
    (NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device."), faults.DEVICE),
    (TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."),
     faults.DEVICE),
    (OSError(errno.ENOSPC, "No space left on device"), faults.DISK_FULL),
    (OSError(errno.EROFS, "Read-only file system"), faults.READ_ONLY),
    (PermissionError(errno.EACCES, "Permission denied"), faults.READ_ONLY),
    (faults.CorruptFileError("train.bin is cut short"), faults.CORRUPT_FILE),
    (faults.NonFiniteError("3 bad steps in a row"), faults.NON_FINITE),
    (ValueError("something else"), faults.UNKNOWN),
    (RuntimeError("invalid low watermark ratio 1.4"), faults.UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(("error", "symptom"), CASES, ids=lambda case: str(case)[:40])
def test_a_failure_is_told_as_its_symptom_however_deep_it_is_wrapped(error, symptom):
    assert classify(error) == symptom
    assert classify(wrapped(error, explicitly=True)) == symptom
    assert classify(wrapped(wrapped(error, explicitly=False), explicitly=True)) == symptom


def wrapped(error: Exception, explicitly: bool) -> Exception:
    try:
        try:
            raise error
        except Exception as inner:
            if explicitly:
                raise RuntimeError("the step failed") from inner
            raise RuntimeError("while cleaning up")  # noqa: B904  its context is what is tested
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize("text, symptom", [
    ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.0 GiB for an array", faults.OUT_OF_MEMORY),
    ("Traceback (most recent call last):\nMemoryError", faults.OUT_OF_MEMORY),
    ("terminate called after throwing an instance of 'std::bad_alloc'\n  what():  …", faults.OUT_OF_MEMORY),
    ("memory allocation of 872968 bytes failed\nFatal Python error: Aborted", faults.OUT_OF_MEMORY),
    ("-[MTLDebug commit]:1: failed assertion `commit an already committed command buffer'", faults.DEVICE),
    ("ROMEO: o, CUDA out of memory, MemoryError, std::bad_alloc! MPSGraph", ""),
    ("step 17  loss 1.62", ""),
])  # fmt: skip
def test_last_words_are_believed_only_where_they_are_an_errors(text, symptom):
    assert symptom_in(f"step 16  loss 1.63\n{text}\nstep 18\n") == symptom


def test_a_full_disk_wins_over_what_it_broke():
    error = OSError(errno.ENOSPC, "No space left on device")
    error.__context__ = RuntimeError("CUDA out of memory")
    assert classify(error) == faults.DISK_FULL


def test_a_chain_that_bites_its_tail_ends():
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__context__, other.__context__ = other, one
    assert classify(one) == faults.UNKNOWN


def test_the_nearest_word_is_offered_and_nonsense_gets_none():
    known = ["learning_rate", "batch_size", "max_iters"]
    random.Random(0).shuffle(known)
    assert nearest("learning_rat", known) == ' (did you mean "learning_rate"?)'
    assert nearest("zzz", known) == nearest("--mirror", ["--redo", "--budget"]) == ""
