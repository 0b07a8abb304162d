"""Models with one part exchanged, from outside: nanogpt.model knows nothing of it, and trains them as its own.

Each function of SURGERIES changes a model before its weights are drawn. Parameters keep their names, so what is left of
the model begins with the weights that it begins with in the control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import Config
from nanogpt.model.attention import Attention, Scope
from nanogpt.model.feedforward import FeedForward
from nanogpt.model.gpt import GPT, Block
from nanogpt.model.norm import RMSNorm
from nanogpt.model.positional import Rotation
from nanogpt.study.variants import COLD, HOT, Variant


def build(variant: Variant, config: Config) -> GPT:
    """The variant's model, from `config`, its own, with the weights of training.seed. On the CPU."""
    model = GPT(config.model, seed=None)
    if variant.surgery:
        SURGERIES[variant.surgery](model)
    model.initialise(torch.Generator().manual_seed(config.training.seed))
    return model


class UnfusedAttention(Attention):
    """Attention whose every pass goes through attend(), which a subclass replaces."""

    def attend_short(self, heads: Tensor, rotation: Rotation | None) -> Tensor:
        return self.attend_any(heads, rotation, None)


class UnmaskedAttention(UnfusedAttention):
    """Each position attends to all, those after it too, unless `masked`."""

    masked = False

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.masked:
            return super().attend(q, k, v)
        q, k, v = in_one_type(q, self.share(k), self.share(v))  # (B, n_head, T, head_dim) each
        with torch.autocast(q.device.type, enabled=False):
            return F.scaled_dot_product_attention(q, k, v)


def is_unmasked(model: GPT) -> bool:
    return any(isinstance(module, UnmaskedAttention) for module in model.modules())


@contextmanager
def masked(model: GPT) -> Iterator[None]:
    """`model` with its mask back: as it has to write, from the past alone."""
    unmasked = [module for module in model.modules() if isinstance(module, UnmaskedAttention)]
    for module in unmasked:
        module.masked = True
    try:
        yield
    finally:
        for module in unmasked:
            module.masked = False


class TemperedAttention(UnfusedAttention):
    """Scores divided by `temperature`."""

    temperature = 1.0

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().attend(q / self.temperature, k, v)


class ColdAttention(TemperedAttention):
    temperature = COLD


class HotAttention(TemperedAttention):
    temperature = HOT


class WrittenOutAttention(UnfusedAttention):
    """softmax(q k / sqrt(head_dim)) v, with the whole table of scores (T, T) in memory."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = in_one_type(q, self.share(k), self.share(v))
        with torch.autocast(q.device.type, enabled=False):
            return written_out(q, k, v)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of q, k, v (B, n_head, T, head_dim) each, step by step."""
    T, D = q.shape[-2:]
    scores = q @ k.mT / D**0.5  # (B, n_head, T, T)
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    probabilities = scores.masked_fill(future, -torch.inf).softmax(-1)
    y: Tensor = probabilities @ v
    return y


def in_one_type(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In float32 on a CPU, as Attention.attend has short windows; elsewhere in the type of the values."""
    dtype = torch.float32 if q.device.type == "cpu" else v.dtype
    return q.to(dtype), k.to(dtype), v.to(dtype)


class ReLUFeedForward(FeedForward):
    def activate(self, hidden: Tensor) -> Tensor:
        return F.relu(hidden)


class BlockWithoutResidual(Block):
    """feedforward(norm(attention(norm(x))))"""

    def forward(self, x: Tensor, rotation: Rotation | None, scope: Scope) -> Tensor:
        x = self.attention(self.attention_norm(x), rotation, scope)
        x = self.feedforward(self.feedforward_norm(x))
        return x


class PostNormBlock(Block):
    """norm(x + attention(x)), then norm(x + feedforward(x)): Vaswani et al. 2017."""

    def forward(self, x: Tensor, rotation: Rotation | None, scope: Scope) -> Tensor:
        x = self.attention_norm(x + self.attention(x, rotation, scope))
        x = self.feedforward_norm(x + self.feedforward(x))
        return x


def with_attention(kind: type[Attention]) -> Callable[[GPT], None]:
    def exchange(model: GPT) -> None:
        for layer, block in enumerate(model.layers):
            block.attention = kind(model.config, layer)

    return exchange


def with_blocks(kind: type[Block]) -> Callable[[GPT], None]:
    def exchange(model: GPT) -> None:
        model.blocks = nn.ModuleList(kind(model.config, layer) for layer in range(model.config.n_layer))

    return exchange


def use_relu(model: GPT) -> None:
    for block in model.layers:
        block.feedforward = ReLUFeedForward(model.config)


def drop_norms(model: GPT) -> None:
    for block in model.layers:
        block.attention_norm = block.feedforward_norm = cast(RMSNorm, nn.Identity())
    model.final_norm = nn.Identity()


def drop_positions(model: GPT) -> None:
    model.rotary = model.position_embedding = None


SURGERIES: dict[str, Callable[[GPT], None]] = {
    "unmask": with_attention(UnmaskedAttention),
    "cool_attention": with_attention(ColdAttention),
    "heat_attention": with_attention(HotAttention),
    "write_attention_out": with_attention(WrittenOutAttention),
    "drop_residuals": with_blocks(BlockWithoutResidual),
    "norm_after": with_blocks(PostNormBlock),
    "use_relu": use_relu,
    "drop_norms": drop_norms,
    "drop_positions": drop_positions,
}
