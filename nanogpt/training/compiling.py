"""torch.compile of what a training step computes, with inductor's cache kept by machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nanogpt import durable
from nanogpt.machine import processor_features, processor_name
from nanogpt.model.gpt import GPT
from nanogpt.native.cache_folder import cache_folder
from nanogpt.native.unavailable import Unavailable

MOST_SHAPES = 64  # compiled; beyond torch's 8 it would continue in eager mode and say nothing
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # torch's own variable: a folder that a person named stays


def compiled_loss_sum(model: GPT) -> Callable[..., tuple[Tensor, Tensor]]:
    """GPT.loss_sum, compiled at its first call with each shape: those of the curriculum and of a batch's remainder are
    few, and each is worth a graph of its own."""
    keep_inductors_cache()
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(model.loss_sum, dynamic=False)
    return compiled


def keep_inductors_cache() -> None:
    """What inductor builds lasts until the next training of this machine, in the user's cache folder: torch's own place
    is the system's folder for temporary files. By processor and torch: its code is made for both."""
    its_own = Path(tempfile.gettempdir()) / "torchinductor_"  # torch names it in the variable when it is imported
    if not os.environ.get(CACHE, str(its_own)).startswith(str(its_own)):
        return
    try:
        machine = durable.digest([processor_name(), processor_features(), torch.__version__])[:12]
        os.environ[CACHE] = str(cache_folder() / f"inductor-{machine}")
    except Unavailable:
        return  # torch's own place then
