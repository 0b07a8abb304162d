"""When the kernels compute, known from settings and without torch: the trainer, the model and the prediction of memory
ask here."""

from __future__ import annotations

from nanogpt.config import DeviceConfig

LONGEST_HEAD = 256  # numbers; of kernels.c


def kernels_wanted(wanted: DeviceConfig, device: str, precision: str) -> bool:
    """Whether a training on `device`, with products of `precision`, is to be computed by them."""
    return device == "cpu" and wanted.kernels == "auto" and precision != "float16" and not wanted.compile


def kernels_compute_blocks(head_width: int) -> bool:
    """Whether they compute whole blocks of a model, apart from its final norm."""
    return head_width <= LONGEST_HEAD
