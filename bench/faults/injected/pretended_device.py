"""An accelerator that is not there: "mps" or "cuda" on a machine without one, computed by the CPU.

Where a tensor is, is noted on its storage: views and in-place results are where their base is, new results where their
inputs are. C++ knows nothing of it and computes on the CPU; Python sees `tensor.device`, and with it the whole product
takes the accelerator's path: availability, `.to`, factory functions with `device=`, synchronisation, memory figures,
the state of the random numbers, autocast.

Simulated, with the real wordings: tensors of both devices in one operator; on mps float64, and operators in float64;
`.numpy()` without `.cpu()`; with `limit`, out of memory when what is held there would go beyond it.
Not simulated: numbers (they are the CPU's, to the bit, wherever the product computes in the same way; its kernels for
CPUs alone are not taken), speed, asynchrony, a generator of its own (it is the CPU's), streams, pinned memory, and
which operators there are. The pretended cuda is one from before Ampere, without bfloat16; autocast is the CPU's.
"""

from __future__ import annotations

import types
import weakref

import torch
from tensors import tensors_in
from torch.utils._python_dispatch import TorchDispatchMode

MEMORY = 17 * 2**30  # what Metal recommends as the most on a machine with 24 GB
MPS_IS_FULL = (
    "MPS backend out of memory (MPS allocated: {held}, other allocations: 0 bytes, max allowed: {most}). "
    "Tried to allocate {asked} on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for "
    "memory allocations (may cause system failure)."
)
CUDA_IS_FULL = (
    "CUDA out of memory. Tried to allocate {asked}. GPU 0 has a total capacity of {most} of which {free} is free. "
    "Including non-PyTorch memory, this process has {held} memory in use."
)
NO_FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
MAY_MIX = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "set_"}

Tensor = torch.Tensor
_device = torch._C.TensorBase.device.__get__
_to, _numpy = Tensor.to, Tensor.numpy


def appear(kind: str, limit: int | None = None) -> None:
    """From now on there is an accelerator of `kind`, "mps" or "cuda", with `limit` bytes of memory."""
    accelerator = Accelerator(kind, limit)
    accelerator.replace_methods()
    {"mps": _offer_mps, "cuda": _offer_cuda}[kind](accelerator)
    accelerator.__enter__()


class Accelerator(TorchDispatchMode):
    """Notes where each operator's results are; `held` counts the bytes there."""

    def __init__(self, kind: str, limit: int | None):
        super().__init__()
        self.kind, self.limit = kind, limit
        self.device = torch.device(kind, 0)
        self.held = self.peak = 0
        self.leaving = False  # a copy is being made for the CPU
        self.composing = False  # C++ puts an operator together out of others, and takes its masks from the CPU

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        wanted = kwargs.get("device")
        if wanted is not None:
            wanted = torch.device(wanted).type
            kwargs = {**kwargs, "device": "cpu"} if wanted == self.kind else kwargs
        inputs = list(tensors_in([*args, *kwargs.values()]))
        here = [tensor for tensor in inputs if self.holds(tensor)]
        name = operator.overloadpacket.__name__
        if here and name not in MAY_MIX and any(t.dim() for t in inputs if not self.holds(t)):
            devices = f"found at least two devices, {self.device} and cpu!"
            where = f"(when checking argument for argument in method wrapper_{self.kind}_{name})"
            raise RuntimeError(f"Expected all tensors to be on the same device, but {devices} {where}")
        if (here and name == "_to_copy") or self.composing:  # not Python's wish: a cast's gradient, a mask of C++
            wanted = None
        goes_here = wanted == self.kind if wanted is not None else self.composing or self._is_of(name, here, inputs)
        if goes_here and self.kind == "mps" and kwargs.get("dtype") is torch.float64:
            raise TypeError(NO_FLOAT64)
        result = operator(*args, **kwargs)
        if goes_here and not self.leaving:
            for tensor in tensors_in([result]):
                self.take(tensor)
        return result

    def _is_of(self, name: str, here: list, inputs: list) -> bool:
        return bool(here) and (name != "copy_" or inputs[0] is here[0])

    def holds(self, tensor: Tensor) -> bool:
        return getattr(tensor.untyped_storage(), "pretended", None) == self.kind

    def take(self, tensor: Tensor) -> None:
        """`tensor` is here from now on. Out of memory is raised after the fact: this tensor then belongs to nobody."""
        storage = tensor.untyped_storage()
        if getattr(storage, "pretended", None) == self.kind:
            return
        if self.kind == "mps" and tensor.dtype is torch.float64:
            raise TypeError(NO_FLOAT64)
        size = storage.nbytes()
        if self.limit is not None and self.held + size > self.limit:
            words = MPS_IS_FULL if self.kind == "mps" else CUDA_IS_FULL
            figures = {"held": self.held, "most": self.limit, "asked": size, "free": self.limit - self.held}
            full = words.format(**{key: f"{value / 2**20:.2f} MiB" for key, value in figures.items()})
            raise RuntimeError(full) if self.kind == "mps" else torch.OutOfMemoryError(full)
        storage.pretended = self.kind
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._is_free, size).atexit = False

    def _is_free(self, size: int) -> None:
        self.held -= size

    # ---- what Python's tensors say and do

    def replace_methods(self) -> None:
        accelerator, kind = self, self.kind

        def device(tensor):
            real = _device(tensor)
            return accelerator.device if real.type == "cpu" and accelerator.holds(tensor) else real

        def to(tensor, *args, **kwargs):
            return accelerator.moved(tensor, *_wishes(args, kwargs))

        def numpy(tensor, *args, **kwargs):
            if accelerator.holds(tensor):
                raise TypeError(
                    f"can't convert {accelerator.device} device type tensor to numpy. "
                    "Use Tensor.cpu() to copy the tensor to host memory first."
                )
            return _numpy(tensor, *args, **kwargs)

        Tensor.device = property(device)
        Tensor.is_cpu = property(lambda tensor: tensor.device.type == "cpu")
        setattr(Tensor, f"is_{kind}", property(lambda tensor: tensor.device.type == kind))
        Tensor.get_device = lambda tensor: -1 if tensor.device.type == "cpu" else 0
        Tensor.to, Tensor.numpy = to, numpy
        Tensor.cpu = lambda tensor, **kwargs: tensor.to("cpu")
        Tensor.cuda = lambda tensor, *args, **kwargs: tensor.to("cuda")
        Tensor.pin_memory = lambda tensor, *args: tensor
        torch.Generator = _generator_for(kind)
        for name in ("tensor", "as_tensor"):  # C++ would move these past the dispatcher
            setattr(torch, name, self._made_here(getattr(torch, name)))
        functional = torch.nn.functional
        functional.scaled_dot_product_attention = self._composed(functional.scaled_dot_product_attention)
        torch.autocast.__init__ = self._autocast_on_the_cpu(torch.autocast.__init__)

    def moved(self, tensor: Tensor, device, dtype, copy: bool, options: dict) -> Tensor:
        there = None if device is None else torch.device(device).type
        if there in (None, tensor.device.type):
            return _to(tensor, dtype=dtype or tensor.dtype, copy=copy, **options)
        if there not in ("cpu", self.kind):
            return _to(tensor, there, **options)
        if there == self.kind:
            result = _to(tensor, dtype=dtype or tensor.dtype, copy=True, **options)
            self.take(result)
            return result
        self.leaving = True
        try:
            result = _to(tensor, dtype=tensor.dtype, copy=True, **options)
        finally:
            self.leaving = False
        return result if dtype is None else _to(result, dtype=dtype)

    def _composed(self, original):
        def composed(first, *args, **kwargs):
            self.composing = self.holds(first)
            try:
                return original(first, *args, **kwargs)
            finally:
                self.composing = False

        return composed

    def _made_here(self, original):
        def made(data, *args, device=None, **kwargs):
            result = original(data, *args, **kwargs)
            return result if device is None else result.to(device)

        return made

    def _autocast_on_the_cpu(self, original):
        kind = self.kind

        def __init__(context, device_type, *args, **kwargs):
            original(context, "cpu" if device_type == kind else device_type, *args, **kwargs)

        return __init__


def _wishes(args: tuple, kwargs: dict) -> tuple:
    """Of Tensor.to: device, dtype, copy and the options that stay."""
    rest = list(args)
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    if rest and isinstance(rest[0], Tensor):
        other = rest.pop(0)
        device, dtype = other.device, other.dtype
    elif rest and (rest[0] is None or isinstance(rest[0], (str, torch.device))):
        device = rest.pop(0)
    if rest and (rest[0] is None or isinstance(rest[0], torch.dtype)):
        dtype = rest.pop(0)
    kwargs.pop("non_blocking", None)
    copy = kwargs.pop("copy", False) or (len(rest) > 1 and rest[1])
    return device, dtype, copy, kwargs


def _generator_for(kind: str) -> type[torch.Generator]:
    """torch.Generator, which makes those of the accelerator for the CPU that computes what they are for."""

    class Generator(torch.Generator):
        def __new__(cls, device="cpu"):
            return super().__new__(cls, "cpu" if torch.device(device).type == kind else device)

    return Generator


def _offer_mps(accelerator: Accelerator) -> None:
    torch.backends.mps.is_available = torch.backends.mps.is_built = lambda: True
    mps = torch.mps
    mps.is_available, mps.device_count = lambda: True, lambda: 1
    mps.synchronize = mps.empty_cache = lambda: None
    mps.manual_seed, mps.seed = lambda seed: None, lambda: None  # torch.manual_seed() has set it already
    mps.get_rng_state = lambda device="mps": torch.get_rng_state()
    mps.set_rng_state = lambda state, device="mps": torch.set_rng_state(state)
    mps.current_allocated_memory = mps.driver_allocated_memory = lambda: accelerator.held
    mps.recommended_max_memory = lambda: accelerator.limit or MEMORY
    mps.set_per_process_memory_fraction = lambda fraction: None


def _offer_cuda(accelerator: Accelerator) -> None:
    cuda, memory = torch.cuda, accelerator.limit or MEMORY
    name = "a pretended GPU"
    properties = types.SimpleNamespace(name=name, total_memory=memory, major=7, minor=0, multi_processor_count=1)
    cuda._lazy_init = lambda: None
    cuda.is_available, cuda.device_count, cuda.current_device = lambda: True, lambda: 1, lambda: 0
    cuda.get_device_properties, cuda.get_device_name = lambda device=0: properties, lambda device=0: name
    cuda.get_device_capability = lambda device=0: (7, 0)
    cuda.is_bf16_supported = lambda including_emulation=True: False
    cuda.synchronize = lambda device=None: None
    cuda.empty_cache = lambda: None
    cuda.manual_seed = cuda.manual_seed_all = lambda seed: None
    cuda.get_rng_state = lambda device="cuda": torch.get_rng_state()
    cuda.set_rng_state = lambda state, device="cuda": torch.set_rng_state(state)
    cuda.memory_allocated = cuda.memory_reserved = lambda device=None: accelerator.held
    cuda.max_memory_allocated = cuda.max_memory_reserved = lambda device=None: accelerator.peak
    cuda.mem_get_info = lambda device=None: (memory - accelerator.held, memory)

    def reset_peak_memory_stats(device=None) -> None:
        accelerator.peak = accelerator.held

    cuda.reset_peak_memory_stats = reset_peak_memory_stats
