"""Faults at torch's operators, through a TorchDispatchMode that sees every one of them, the backward pass's too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import inflict
import torch
from fault import Fault
from tensors import device_of, tensors_in
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


def watch(faults: list[Fault]) -> None:
    """From now on, in this thread."""
    _Watch(faults).__enter__()


class _Watch(TorchDispatchMode):
    def __init__(self, faults: list[Fault]):
        super().__init__()
        self.faults: dict[str, list[Fault]] = {}
        for fault in faults:
            self.faults.setdefault(fault.operator, []).append(fault)
        self.wrong: list[Fault] = []  # those that have begun

    def __torch_dispatch__(
        self, operator: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operator.overloadpacket.__name__
        if name not in self.faults:
            return operator(*args, **kwargs)

        def device() -> str | None:
            return device_of([*args, *kwargs.values()])

        factor = 1.0
        for fault in self.faults[name]:
            if fault in self.wrong:
                factor *= 1 + fault.words.get("by", -1) if fault.words.get("device") in (None, device()) else 1
            elif not fault.strikes("operator", device):
                continue
            elif fault.what == "wrong":
                self.wrong.append(fault)
                factor *= 1 + fault.words.get("by", -1)
            else:
                inflict.inflict(fault.words)
        result = operator(*args, **kwargs)
        if factor != 1.0:
            with torch.no_grad():
                for tensor in tensors_in([result]):
                    tensor.mul_(factor)
        return result
