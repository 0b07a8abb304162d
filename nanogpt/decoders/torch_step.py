"""One token of each text, composed of as few calls of torch as there are: a small model spends its time between them.

On two cores micro (0.8 M) decodes 2,041 tokens/s this way and 871 through the modules, whose calls, autograd functions
and views are not needed for one position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.decoders.affine import Affine
from nanogpt.model.gpt import GPT, Block
from nanogpt.model.positional import Places


class StepCache(Protocol):
    """What a step needs of a cache; nanogpt.model.attention.KVCache says what each does.

    `visible`: a mask that broadcasts to (B, n_kv_head, query heads of each, keys); None: all.
    """

    @property
    def visible(self) -> Tensor | None: ...

    def reserve(self, count: int) -> Places: ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]: ...

    def advance(self, count: int) -> None: ...


@dataclass(frozen=True)
class Layer:
    """A block's weights. `qk_norm` (n_head + n_kv_head, head_dim): those of all queries and keys."""

    attention_norm: Affine[Tensor]
    qkv: Affine[Tensor]
    qk_norm: Tensor | None
    output: Affine[Tensor]
    feedforward_norm: Affine[Tensor]
    up: Affine[Tensor]
    down: Affine[Tensor]


class TorchStep:
    """A model whose linear maps are plain ones, laid out for one position at a time.

    Its weights are the model's own, but for copies of the QK-norms': after more training, a new one is made.
    """

    def __init__(self, model: GPT):
        self.model, self.config = model, model.config
        self.layers = [self._layer(block) for block in model.layers]
        self.final_norm = _affine(model.final_norm)
        self.approximate = "tanh" if self.config.activation == "gelu" else "none"
        if model.rotary is not None:
            self.cos, self.sin = model.rotary.cos, model.rotary.sin  # (block_size, 1, head_dim)

    @staticmethod
    def suits(model: GPT) -> bool:
        """False with low-rank adapters, whose products are not among the weights."""
        maps = [module for name, module in model.named_modules() if name.endswith((".qkv", ".output", ".up", ".down"))]
        return all(type(module) is nn.Linear for module in maps)

    def hidden(self, tokens: Tensor, cache: StepCache) -> Tensor:
        """What the head reads: tokens (B,) at the next place of each row -> (B, n_embd). The cache then holds them."""
        config, B = self.config, len(tokens)
        H, KV, D = config.n_head, config.kv_heads, config.head_width
        places = cache.reserve(1)
        at = places if isinstance(places, slice) else places[:, 0]  # the same in every row, or (B,)
        x = self._embed(tokens, at)
        if config.position == "rope":
            cos, sin = self.cos[at], self.sin[at]  # (1, 1, head_dim) or (B, 1, head_dim)
        for number, layer in enumerate(self.layers):
            heads = self._linear(self._norm(x, layer.attention_norm), layer.qkv).view(B, H + 2 * KV, D)
            qk = heads[:, : H + KV]
            if layer.qk_norm is not None:
                qk = F.rms_norm(qk, (D,), None, config.norm_eps) * layer.qk_norm
            if config.position == "rope":
                qk = torch.addcmul(qk * cos, qk.roll(D // 2, -1), sin)
            keys, values = cache.append(number, qk[:, H:, None], heads[:, H + KV :, None])
            q = qk[:, :H].reshape(B, KV, H // KV, D)  # a group of query heads as the rows of its key head
            attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=cache.visible)
            x = x + self._linear(attended.reshape(B, H * D), layer.output)
            up = self._linear(self._norm(x, layer.feedforward_norm), layer.up)
            x = x + self._linear(self._activate(up), layer.down)
        cache.advance(1)
        return self._norm(x, self.final_norm)

    def _embed(self, tokens: Tensor, places: Places) -> Tensor:
        x = F.embedding(tokens, self.model.token_embedding.weight)
        if self.config.embedding_norm:
            x = F.rms_norm(x, (x.size(-1),), None, self.config.norm_eps)
        if self.model.position_embedding is not None:
            x = x + self.model.position_embedding.weight[places]
        return x

    def _norm(self, x: Tensor, norm: Affine[Tensor]) -> Tensor:
        if self.config.norm == "rmsnorm":
            return F.rms_norm(x, (x.size(-1),), norm.weight, self.config.norm_eps)
        return F.layer_norm(x, (x.size(-1),), norm.weight, norm.bias, self.config.norm_eps)

    def _linear(self, x: Tensor, linear: Affine[Tensor]) -> Tensor:
        return F.linear(x, linear.weight, linear.bias)

    def _activate(self, hidden: Tensor) -> Tensor:
        if self.config.activation == "swiglu":
            gate, up = hidden.chunk(2, dim=-1)
            return F.silu(gate) * up
        if self.config.activation == "relu2":
            return F.relu(hidden).square()
        return F.gelu(hidden, approximate=self.approximate)

    def _layer(self, block: Block) -> Layer:
        attention, feedforward, qk_norm = block.attention, block.feedforward, None
        if attention.q_norm is not None and attention.k_norm is not None:
            q, k = attention.q_norm.weight, attention.k_norm.weight
            heads = [q.expand(self.config.n_head, -1), k.expand(self.config.kv_heads, -1)]
            qk_norm = torch.cat(heads).detach()
        return Layer(
            attention_norm=_affine(block.attention_norm),
            qkv=_affine(attention.qkv),
            qk_norm=qk_norm,
            output=_affine(attention.output),
            feedforward_norm=_affine(block.feedforward_norm),
            up=_affine(feedforward.up),
            down=_affine(feedforward.down),
        )


def _affine(module: nn.Module) -> Affine[Tensor]:
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    return Affine(weight.detach(), None if bias is None else bias.detach())
