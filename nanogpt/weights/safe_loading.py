"""Files of weights read without running a line of what is in them: safetensors, and pickles of plain values.

torch is imported for what needs it alone: pickles, and numbers that numpy has no type for, such as bfloat16.
"""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from nanogpt import durable
from nanogpt.faults import UserError

if TYPE_CHECKING:  # opening an export takes 0.3 s, and 1.8 with torch
    from torch import Tensor

Array = npt.NDArray[np.float32]
Size = tuple[int, ...]
NUMPY_READS = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}


def load_arrays(path: Path) -> dict[str, Array]:
    """The tensors in a .safetensors or, by torch.save, in any other file; float32. Raises UserError, OSError."""
    if path.suffix != ".safetensors":
        return arrays_in(load_pickle(path), path)
    _require_plain(path)
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            if NUMPY_READS.issuperset(file.get_slice(name).get_dtype() for name in names):
                with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is refused
                    return {name: file.get_tensor(name).astype(np.float32, copy=False) for name in names}
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).float().numpy() for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: is not a safetensors file ({error})") from error


def load_sizes(path: Path) -> dict[str, Size]:
    """The sizes of those tensors, from the header of a .safetensors: no weight is read. Raises UserError, OSError."""
    if path.suffix != ".safetensors":
        return sizes_in(load_pickle(path, sizes_only=True), path)
    _require_plain(path)
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path}: is not a safetensors file ({error})") from error


def arrays_in(content: Any, path: Path) -> dict[str, Array]:
    """`content`, tensors by name, as float32 arrays. Raises UserError when it is something else."""
    return {name: tensor.detach().float().numpy() for name, tensor in _tensors_in(content, path).items()}


def sizes_in(content: Any, path: Path) -> dict[str, Size]:
    """The sizes of the tensors in `content`. Raises UserError when it is something else."""
    return {name: tuple(tensor.shape) for name, tensor in _tensors_in(content, path).items()}


def _tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    from torch import Tensor  # there already: it has read `content`

    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path}: expected tensors by their names, found {type(content).__name__}")
    return {str(name): tensor for name, tensor in content.items()}


def _require_plain(path: Path) -> None:
    """Raise UserError for what is no file or cannot be read: opening a FIFO would wait for its writer."""
    try:
        durable.open_plain(path).close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def load_pickle(path: Path, *, sizes_only: bool = False) -> Any:
    """What torch.save wrote, when it is tensors and plain values. Raises UserError for anything else.

    With `sizes_only` the tensors are on the meta device. torch's own allow-list decides (weights_only): a pickle may
    name any function to call, and calling it is loading.
    """
    import torch  # a safetensors file is read without it

    _require_plain(path)
    try:
        return torch.load(path, map_location="meta" if sizes_only else "cpu", weights_only=True)
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"(?:class|function|type) (\S+)", str(error))
        if "weights_only" in str(error) and refused:
            name = refused.group(1).rstrip(".,")
            raise UserError(
                f"{path}: holds {name} besides tensors and plain values; refused, because loading it may run code"
            ) from None
        raise UserError(f"{path}: is not a file of torch.save") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise UserError(f"{path}: is not a whole file of torch.save ({' '.join(str(error).split())[:100]})") from None
