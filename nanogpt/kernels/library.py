"""The library of kernels.c, built for this machine, on the threads of torch."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from nanogpt import durable
from nanogpt.kernels.source import SOURCE
from nanogpt.machine import is_amds
from nanogpt.native.unavailable import Unavailable

PARTS = 64  # of kernels.c

POINTER, LONG, FLOAT, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
FUNCTIONS = {  # arguments
    "set_threads": [POINTER] * 3,
    "add": [POINTER] * 4 + [LONG, LONG, INT],
    "drop": [POINTER] * 3 + [LONG] * 3 + [FLOAT, INT],
    "norm_forward": [POINTER] * 6 + [FLOAT] + [POINTER] * 3 + [LONG, LONG, INT],
    "norm_backward": [POINTER] * 11 + [LONG, LONG, INT],
    "column_sums": [POINTER] * 3 + [LONG, LONG, INT],
    "activation_forward": [POINTER] * 3 + [LONG, LONG, INT, INT],
    "activation_backward": [POINTER] * 5 + [LONG, LONG, INT, INT],
    "attention_scratch": [LONG, LONG],
    "attention_forward": [POINTER] * 4 + [FLOAT] + [POINTER] * 5 + [LONG] * 6 + [INT],
    "attention_backward": [POINTER] * 5 + [FLOAT] + [POINTER] * 7 + [LONG] * 6 + [INT],
    "product": [POINTER, LONG, LONG] * 2 + [POINTER] + [LONG] * 3,
    "product_is_fast": [INT],
    "set_blas": [POINTER],
    "block_sizes": [POINTER] * 4,
    "block_forward": [POINTER] * 5,
    "block_backward": [POINTER] * 8,
    "cross_entropy": [POINTER] * 3 + [LONG, LONG, INT],
}
TORCH_LIBRARY = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
OWN, MKLS, TORCHS = "the kernels' own", "MKL's, called from C", "torch's"
OPENMP = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@dataclass(frozen=True)
class Kernels:
    """The functions of kernels.c by their names. `name` says what decides their bits: "c-" and a digest of the source,
    the compiler with its flags, the processor, and whose products are taken."""

    name: str
    functions: dict[str, Callable[..., int]]
    products: str  # whose products of float32 matrices are the fastest: OWN, MKLS or TORCHS
    half_products: str  # of bfloat16 ones: OWN or TORCHS

    def __getattr__(self, name: str) -> Callable[..., int]:
        return self.functions[name]


@functools.cache
def load() -> Kernels:
    """Built if need be, which a line on stderr says, and from then on kept in this process. Raises Unavailable."""
    pool = _threads_of_torch()
    built = SOURCE.build(_say)
    try:
        functions = {name: getattr(built.library, name) for name in FUNCTIONS}
    except AttributeError as error:
        raise Unavailable(f"what the compiler has built is not whole ({error})") from error
    for name, function in functions.items():
        function.argtypes, function.restype = FUNCTIONS[name], None
    functions["attention_scratch"].restype = LONG
    functions["product_is_fast"].restype = INT
    functions["set_threads"](*pool)
    products = _choose_products(functions)
    return Kernels(f"c-{durable.digest([built.identity, *products])[:12]}", functions, *products)


def _choose_products(functions: Mapping[str, Callable[..., int]]) -> tuple[str, str]:
    """For float32 and bfloat16. Own ones on AMD's processors with AVX-512: those of a block of 768 rows, 128 wide,
    there and back, take 8.1 ms on one core of an EPYC and by MKL, which has AVX2 for them, 9.3; of 512 rows, 768 to
    3,072 wide, 68 and 75. In bfloat16 the first take 4.1 and by torch 4.4, 2.1 and 2.4 on two cores. On a Xeon MKL
    reaches the rate of its largest products, and AMX is torch's."""
    own = [is_amds() and bool(functions["product_is_fast"](half)) for half in (False, True)]
    blas = None if own[False] else blas_of_torch()
    functions["set_blas"](blas)
    return OWN if own[False] else MKLS if blas else TORCHS, OWN if own[True] else TORCHS


def blas_of_torch() -> int | None:
    """The address of MKL's sgemm_ in torch, which computes on torch's threads."""
    if not torch.backends.mkl.is_available():
        return None
    try:
        return ctypes.cast(ctypes.CDLL(str(TORCH_LIBRARY)).sgemm_, POINTER).value
    except (OSError, AttributeError):
        return None


def _say(line: str) -> None:
    """On a terminal in place of a line that moves, which its writer draws again below."""
    with suppress(OSError):  # a log on a disk that is full
        print(f"\r\x1b[K{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def _threads_of_torch() -> list[int]:
    """The addresses of OPENMP's functions, found as torch's own calls find them: of several OpenMP libraries in this
    process (LD_PRELOAD, another package's) the others have pools, and numbers of threads, of their own."""
    if sys.platform != "linux":
        raise Unavailable("torch's threads cannot be used by other code on this system")
    for path in (None, TORCH_LIBRARY):  # None: what all libraries see
        try:
            openmp = ctypes.CDLL(None if path is None else str(path))
            return [ctypes.cast(getattr(openmp, name), POINTER).value or 0 for name in OPENMP]
        except (OSError, AttributeError):
            continue
    raise Unavailable("torch has no OpenMP library whose threads other code can use")


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Where a contiguous tensor begins."""
    return None if tensor is None else tensor.data_ptr()
