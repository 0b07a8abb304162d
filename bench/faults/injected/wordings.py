"""What devices, allocators and systems really say: the exact errors (torch 2.13, CPython 3.11, Linux and macOS)."""

from __future__ import annotations

import errno
import importlib
from typing import Any

COMMAND_BUFFER = """\
Error: command buffer exited with error status.
\tThe Metal Performance Shaders operations encoded on it may not have completed.
\tError:
\t(null)
\tInternal Error (0000000e:Internal Error)
\t<AGXG13XFamilyCommandBuffer: 0x34a5b6fd0>
    label = <none>
    device = <AGXG13XDevice: 0x10680be00>
        name = Apple M4
    commandQueue = <AGXG13XFamilyCommandQueue: 0x1069d2200>
    retainedReferences = 1
"""
ASSERTION = "-[IOGPUMetalCommandBuffer validate]:214: failed assertion `commit an already committed command buffer'\n"

ERRORS: dict[str, tuple[str, str | tuple[int, str] | None]] = {
    "mps out of memory": (
        "RuntimeError",
        "MPS backend out of memory (MPS allocated: 16.98 GiB, other allocations: 1.23 GiB, max allowed: 18.13 GiB). "
        "Tried to allocate 512.00 MiB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper "
        "limit for memory allocations (may cause system failure).",
    ),
    "mps buffer size": ("RuntimeError", "Invalid buffer size: 18.00 GiB"),
    "mps not implemented": (
        "NotImplementedError",
        "The operator 'aten::mm' is not currently implemented for the MPS device. If you want this op to be considered "
        "for addition please comment on https://github.com/pytorch/pytorch/issues/141287 and mention use-case, that "
        "resulted in missing op as well as commit hash. As a temporary fix, you can set the environment variable "
        "`PYTORCH_ENABLE_MPS_FALLBACK=1` to use the CPU as a fallback for this op. WARNING: this will be slower than "
        "running natively on MPS.",
    ),
    "mps float64": (
        "TypeError",
        "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
        "Please use float32 instead.",
    ),
    "mps graph": ("RuntimeError", "[MPSGraph initWithDevice:] MPSGraph compilation failed: incompatible dimensions"),
    "cuda out of memory": (
        "torch:OutOfMemoryError",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 1.12 GiB is "
        "free. Including non-PyTorch memory, this process has 22.52 GiB memory in use.",
    ),
    "cuda error: out of memory": ("RuntimeError", "CUDA error: out of memory"),
    "cuda mig": (
        "RuntimeError",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1123, '
        "please report a bug to PyTorch.",
    ),
    "cuda illegal access": (
        "torch:AcceleratorError",
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported at "
        "some other API call, so the stacktrace below might be incorrect.",
    ),
    "cublas": (
        "RuntimeError",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k, &alpha, a, "
        "lda, b, ldb, &beta, c, ldc)`",
    ),
    "cpu out of memory": (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)",
    ),
    "windows out of memory": (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you tried to allocate "
        "8589934592 bytes.",
    ),
    "bad_alloc": ("RuntimeError", "std::bad_alloc"),
    "MemoryError": ("MemoryError", None),
    "numpy out of memory": (
        "MemoryError", "Unable to allocate 8.00 GiB for an array with shape (1073741824,) and data type float64",
    ),
    "mmap": ("OSError", (errno.ENOMEM, "Cannot allocate memory")),
    "torch mmap": ("RuntimeError", "unable to mmap 8589934592 bytes from file </tmp/x>: Cannot allocate memory (12)"),
    "disk full": ("OSError", (errno.ENOSPC, "No space left on device")),
    "read-only": ("OSError", (errno.EROFS, "Read-only file system")),
    "input/output": ("OSError", (errno.EIO, "Input/output error")),
}  # fmt: skip


def error(fault: dict[str, Any]) -> BaseException:
    """The exception that `fault` names: by `error`, or by `type` ("RuntimeError", "module:Name") and `says`."""
    kind, words = ERRORS[fault["error"]] if "error" in fault else (fault["type"], fault.get("says"))
    module, _, name = kind.rpartition(":")
    made = getattr(importlib.import_module(module or "builtins"), name)
    raised: BaseException = made(*([] if words is None else [words] if isinstance(words, str) else words))
    return raised
