"""Files of weights read without running a line of what is in them: safetensors, and pickles of plain values."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanogpt import durable
from nanogpt.faults import UserError


def load_tensors(path: Path, *, sizes_only: bool = False) -> dict[str, Tensor]:
    """The tensors in a .safetensors or, by torch.save, in any other file; float32. Raises UserError, OSError.

    With `sizes_only` they are on the meta device: no weight is read.
    """
    if path.suffix != ".safetensors":
        return tensors_in(load_pickle(path, sizes_only=sizes_only), path)
    _require_plain(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            if sizes_only:
                return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names}
            return {name: file.get_tensor(name).float() for name in names}
    except SafetensorError as error:
        raise UserError(f"{path}: is not a safetensors file ({error})") from error


def _require_plain(path: Path) -> None:
    """Raise UserError for what is no file or cannot be read: opening a FIFO would wait for its writer."""
    try:
        durable.open_plain(path).close()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def tensors_in(content: Any, path: Path) -> dict[str, Tensor]:
    """`content` as tensors by name, float32. Raises UserError when it is something else."""
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise UserError(f"{path}: expected tensors by their names, found {type(content).__name__}")
    return {str(name): tensor.float() for name, tensor in content.items()}


def load_pickle(path: Path, *, sizes_only: bool = False) -> Any:
    """What torch.save wrote, when it is tensors and plain values. Raises UserError for anything else.

    torch's own allow-list decides (weights_only): a pickle may name any function to call, and calling it is loading.
    """
    _require_plain(path)
    try:
        return torch.load(path, map_location="meta" if sizes_only else "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"(?:class|function|type) (\S+)", str(error))
        if "weights_only" in str(error) and refused:
            name = refused.group(1).rstrip(".,")
            raise UserError(
                f"{path}: holds {name} besides tensors and plain values; refused, because loading it may run code"
            ) from None
        raise UserError(f"{path}: is not a file of torch.save") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise UserError(f"{path}: is not a whole file of torch.save ({' '.join(str(error).split())[:100]})") from None
