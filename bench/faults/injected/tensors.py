"""The tensors among the arguments of an operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch


def device_of(values: Iterable[object]) -> str | None:
    """The first accelerator among tensors, else the CPU."""
    kinds = [tensor.device.type for tensor in tensors_in(values)]
    return next((kind for kind in kinds if kind != "cpu"), kinds[0] if kinds else None)


def tensors_in(values: Iterable[object]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)
