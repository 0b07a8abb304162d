"""What is computed again in the backward pass instead of being kept (Chen et al. 2016): blocks, logits.

torch.utils.checkpoint does the same, and loads torch's compiler for it: 1 s and 150 MB, in a process that recomputes
because memory has run out. Compiled models take torch's. There are first derivatives alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor, parts: nn.Module, draws: bool) -> Tensor:
    """function(x), keeping x alone; `parts` has the parameters that it uses, and it `draws` random numbers or not.

    They are drawn again as they were, and the products are of the same type; so the gradients are the same to the byte.
    """
    if not torch.is_grad_enabled():
        return function(x)
    if torch.compiler.is_compiling():  # which keeps the random numbers itself
        y: Tensor = checkpoint(function, x, use_reentrant=False)
        return y
    generator = generator_of(x.device.type) if draws else None
    again: Tensor = _Recomputed.apply(function, generator, x, *parts.parameters())  # type: ignore[no-untyped-call]
    return again


def generator_of(device: str) -> ModuleType:
    """The module whose generator dropout draws from: torch itself on a CPU."""
    return torch if device == "cpu" else getattr(torch, device)


class _Recomputed(torch.autograd.Function):
    """function(x) -> y of any shape; gradients for x and for the parameters that need them and are used."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[[Tensor], Tensor], generator: ModuleType | None, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.function, ctx.generator, ctx.autocast = function, generator, _autocast_now(x.device.type)
        ctx.state = generator.get_rng_state() if generator else None
        ctx.save_for_backward(x, *parameters)
        return _computed(function, x)[1].detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        now = ctx.generator.get_rng_state() if ctx.generator else None
        if ctx.generator:
            ctx.generator.set_rng_state(ctx.state)
        try:
            with ctx.autocast():
                again, y = _computed(ctx.function, x)
        finally:
            if ctx.generator:
                ctx.generator.set_rng_state(now)
        needed = ctx.needs_input_grad[2:]
        wanted = [tensor for tensor, needs in zip((again, *parameters), needed, strict=True) if needs]
        # A product, whose gradient for y is `gradient`: torch loads sympy to judge a gradient that it is given.
        with torch.enable_grad():
            weighted = (y * gradient).sum()
        found = iter(torch.autograd.grad(weighted, wanted, allow_unused=True))
        return None, None, *(next(found) if needs else None for needs in needed)


def _computed(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of x that gradients flow to, and function of it: both times by the operators of training."""
    with torch.enable_grad():
        again = x.detach().requires_grad_()
        return again, function(again)


def _autocast_now(device: str) -> Callable[[], AbstractContextManager[Any]]:
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return partial(torch.autocast, device, dtype, enabled)
