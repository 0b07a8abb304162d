"""The moving average of the weights: often a better model than the last weights, at the cost of one pass over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential moving average, corrected for its start as Adam's moments are (Kingma and Ba 2015, section 3).

    After t updates the average is sum of decay^(t-i) w_i over sum of decay^(t-i), i = 1 .. t: the first weights do
    not linger. Kept in the parameters' type and on their device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float):
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        self.means = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the average."""
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        torch._foreach_lerp_(self.means, [parameter.detach() for parameter in self.parameters], share)

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """The model has the averaged weights inside the context; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for index, parameter in enumerate(self.parameters):
            parameter.data, self.means[index] = self.means[index], parameter.data

    def state_dict(self) -> dict[str, Any]:
        """The means, in the order of the parameters, and how many updates are in them."""
        return {"updates": self.updates, "means": self.means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave."""
        self.updates = state["updates"]
        for mine, saved in zip(self.means, state["means"], strict=True):
            mine.copy_(saved)
