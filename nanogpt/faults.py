"""Which failure is which: a person's mistake, or a machine's fault with a known symptom.

Both packages use it. The wordings are those that torch, numpy and the kernels really raise; they are matched over the
whole chain of causes because libraries wrap what they catch.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator

OUT_OF_MEMORY = "out_of_memory"
DEVICE = "device"
DISK_FULL = "disk_full"
READ_ONLY = "read_only"
MEDIUM = "medium"
CORRUPT_FILE = "corrupt_file"
NON_FINITE = "non_finite"
UNKNOWN = "unknown"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a full disk, a used-up quota, a limit on the size of files
EXIT_CODES = {DISK_FULL: 4, READ_ONLY: 5, MEDIUM: 6}  # of a process that may have no room left to write what happened


class UserError(Exception):
    """A person's mistake, in one line that says what to do; command lines exit with code 2."""


class CorruptFileError(Exception):
    """A file that is not what its digest or header says."""


class FolderLostError(OSError):
    """A folder that is written to is gone, or another one is in its place: unmounted, moved or removed."""

    def __init__(self, folder: object):
        super().__init__(errno.ENOENT, "is gone (unmounted, moved or removed)", str(folder))

    def __reduce__(self) -> tuple[type[FolderLostError], tuple[object]]:
        return FolderLostError, (self.filename,)  # OSError's own would call this class with what OSError is made of


class DeviceError(Exception):
    """An accelerator that does not compute what the CPU computes."""


class NonFiniteError(Exception):
    """Training produced NaN or infinity more often than rewinding can mend."""


# Sources: torch 2.13 (c10/core/CPUAllocator, MPSAllocator.mm), PyTorch forum reports; see tests/nanogpt/test_faults.py.
ONEDNN_WITHOUT_MEMORY = (
    "could not create a primitive"  # and no more; what it cannot compute is "... descriptor for ..."
)
OUT_OF_MEMORY_WORDINGS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
    "MPS backend out of memory",
    "Invalid buffer size:",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "memory allocation of",  # "... 872968 bytes failed": Rust, so safetensors and tokenizers, before it aborts
)
DEVICE_WORDINGS = (
    "is not currently implemented for the MPS device",
    "Cannot convert a MPS Tensor to float64",
    "command buffer exited with error status",
    "failed assertion `commit an already committed command buffer'",
    "MPSGraph",
    "CUDA error:",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
)
# "RuntimeError: …", "torch.OutOfMemoryError: …", "terminate called after …", "  what():  std::bad_alloc", Metal's own
ERROR_LINE = re.compile(
    r"^([\w.]*(Error|Exception)\b|terminate called|\s*what\(\):|memory allocation of|.*failed assertion|.*: error:)"
)
MEMORY_ERROR = re.compile(r"[\w.]*MemoryError\b")  # Python's, which has no words, and numpy's _ArrayMemoryError


def classify(error: BaseException) -> str:
    """The symptom of `error`: one of the constants above.

    A file named as full, read-only or corrupt wins over wordings, and memory over the device, because
    "CUDA error: out of memory" is both.
    """
    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, NonFiniteError):
            return NON_FINITE
        if isinstance(cause, CorruptFileError):
            return CORRUPT_FILE
        if isinstance(cause, OSError):
            if cause.errno in NO_ROOM:
                return DISK_FULL
            if isinstance(cause, FolderLostError) or cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                return READ_ONLY
            if cause.errno == errno.EIO:
                return MEDIUM
    if any(_is_out_of_memory(cause) for cause in chain):
        return OUT_OF_MEMORY
    if any(_is_of_device(cause) for cause in chain):
        return DEVICE
    return UNKNOWN


def is_error_line(line: str) -> bool:
    """Whether `line` of what a process printed begins as errors do."""
    return bool(ERROR_LINE.match(line) or MEMORY_ERROR.match(line))


def symptom_in(text: str) -> str:
    """The symptom that the last words of a process show: OUT_OF_MEMORY, DEVICE or "" for none that is known.

    For what could not be raised: an abort, or an error while there was no memory left to handle it. Lines that begin
    as errors do are read, nothing else.
    """
    errors = [line for line in text.splitlines() if is_error_line(line)]
    if any(MEMORY_ERROR.match(line) or _has(line, OUT_OF_MEMORY_WORDINGS) for line in errors):
        return OUT_OF_MEMORY
    return DEVICE if any(_has(line, DEVICE_WORDINGS) for line in errors) else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean "…"?)' for the known word nearest to `word`, or an empty string."""
    return suggestion(closest(word, known))


def closest(word: str, known: Iterable[str]) -> str:
    """The known word nearest to `word`, or one that `word` is the beginning of; else an empty string."""
    known = list(known)
    begun = [one for one in known if word and one.startswith(word)]
    return next(iter([*difflib.get_close_matches(word, known, n=1, cutoff=0.6), *begun]), "")


def suggestion(word: str) -> str:
    """' (did you mean "word"?)', or an empty string for one."""
    return f' (did you mean "{word}"?)' if word else ""


def _is_out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or _says(error, OUT_OF_MEMORY_WORDINGS)
        or str(error) == ONEDNN_WITHOUT_MEMORY
    )


def _is_of_device(error: BaseException) -> bool:
    by_type = isinstance(error, DeviceError) or type(error).__name__ == "AcceleratorError"
    return by_type or _says(error, DEVICE_WORDINGS)


def _says(error: BaseException, wordings: tuple[str, ...]) -> bool:
    return _has(str(error), wordings)


def _has(text: str, wordings: tuple[str, ...]) -> bool:
    return any(wording in text for wording in wordings)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, and so on; each once, because they may form a circle."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
