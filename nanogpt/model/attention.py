"""Causal self-attention with grouped key/value heads, optional QK-norm and rotary positions, and a cache to decode."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import ModelConfig
from nanogpt.machine import has_bfloat16_instructions
from nanogpt.model import short_attention
from nanogpt.model.norm import RMSNorm
from nanogpt.model.positional import Places, Rotation, rotate
from nanogpt.model.short_attention import ShortAttention
from nanogpt.model.unset import unset_linear

# From so many positions on, attention in bfloat16 is the faster one on a CPU. Measured forward and backward with torch
# 2.13 on two cores, bfloat16 against float32: with AMX 4 times slower at 64 positions and 1.4 times faster at 256; with
# AVX-512 BF16 alone 1.4 times slower at 64, equal at 256, 1.3 times faster at 1,024; without such instructions 2.6 to
# 4.2 times slower at 64 to 1,024.
FASTER_IN_BFLOAT16 = 256 if has_bfloat16_instructions() else sys.maxsize


class KVCache:
    """The keys and values of the positions already seen, so that each new token costs one position of work.

    Per layer two tensors of (B, n_kv_head, block_size, head_dim), allocated once. `lengths` says how many positions are
    filled in each row; what lies behind them is never looked at. A forward pass calls reserve() first, each layer
    writes with append(), and advance() ends it.
    """

    def __init__(self, config: ModelConfig, batch_size: int = 1, device: str = "cpu"):
        shape = (batch_size, config.kv_heads, config.block_size, config.head_width)
        self.keys = [torch.zeros(shape, device=device, dtype=torch.float32) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=torch.float32) for _ in range(config.n_layer)]
        self.lengths = [0] * batch_size
        self.places: Places = slice(0, 0)  # of the positions that this forward pass adds
        self.visible: Tensor | None = None  # which keys each of them attends to; None: all

    @property
    def length(self) -> int:
        """Filled positions of the longest row."""
        return max(self.lengths)

    def reserve(self, count: int) -> Places:
        """Where the next `count` positions of each row go: a slice while all rows are equally long, else (B, count)."""
        start, device = self.length, self.keys[0].device
        end = start + count
        self.places, self.visible = slice(start, end), None
        if min(self.lengths) < start:
            self.places = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(count, device=device)
            self.visible = torch.arange(end, device=device) <= self.places[:, None, :, None]  # (B, 1, count, end)
        elif count > 1:
            self.visible = torch.ones(count, end, dtype=torch.bool, device=device).tril(start)
        return self.places

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (B, n_kv_head, T, head_dim) to their places; all keys and values up to the longest row's end."""
        end = self.length + k.size(2)
        for kept, new in ((self.keys[layer], k), (self.values[layer], v)):
            if isinstance(self.places, slice):
                kept[:, :, self.places] = new
            else:
                kept[torch.arange(len(new))[:, None], :, self.places] = new.transpose(1, 2)  # (B, T, n_kv_head, D)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def advance(self, count: int) -> None:
        """Count the positions that all layers have written."""
        self.lengths = [length + count for length in self.lengths]

    def keep(self, rows: list[int]) -> None:
        """Forget all other rows; one that is named several times is copied."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.lengths = [self.lengths[row] for row in rows]

    def copied(self, rows: list[int]) -> KVCache:
        """A cache of copies of these rows."""
        copy = KVCache.__new__(KVCache)
        copy.__dict__.update(self.__dict__)
        copy.keep(rows)
        return copy

    def join(self, other: KVCache) -> None:
        """Append the rows of `other`, a cache of the same shape."""
        self.keys = [torch.cat(both) for both in zip(self.keys, other.keys, strict=True)]
        self.values = [torch.cat(both) for both in zip(self.values, other.values, strict=True)]
        self.lengths = [*self.lengths, *other.lengths]


@dataclass(frozen=True)
class Documents:
    """Several documents in one window, each for itself: no position attends beyond its own, and positions count from
    its beginning. A causal mask that is block-diagonal, so the losses are those of each document alone.

    places (B, T) int64; visible (B, 1, T, T) bool: which keys each position attends to.
    """

    places: Tensor
    visible: Tensor

    @classmethod
    def beginning_with(cls, first: int, tokens: Tensor) -> Documents:
        """Of tokens (B, T): each token `first`, the end-of-text token of the document before, begins a document."""
        document = (tokens == first).cumsum(dim=1)  # (B, T): its number in the window
        theirs, own = document[:, None, :], document[:, :, None]
        places = torch.arange(tokens.size(1), device=tokens.device) - (theirs < own).sum(dim=-1)
        return cls(places, (theirs == own).tril()[:, None])


Scope = KVCache | Documents | None  # what positions attend to; None: to all before them in their window


class Attention(nn.Module):
    """Multi-head (Vaswani et al. 2017) or grouped-query (Ainslie et al. 2023) causal attention.

    The query, key and value matrices are the row blocks `row_blocks` of one matrix, `qkv`: forward and backward take
    0.62 ms instead of 0.94 for three (768 tokens, 128 wide, bfloat16, one core), and an optimizer that works on
    matrices can split it without a copy.
    """

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.kv_heads, config.head_width
        self.row_blocks = tuple(heads * self.head_dim for heads in (self.n_head, self.n_kv_head, self.n_kv_head))
        self.qkv = unset_linear(config.n_embd, sum(self.row_blocks), bias=config.bias)
        self.output = unset_linear(self.n_head * self.head_dim, config.n_embd, bias=config.bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else None
        self.dropout = config.dropout
        self.by_products = False  # written out, instead of by torch's kernel
        self.watch: Callable[[Tensor], None] | None = None  # is given weights() of each pass without a cache

    def forward(self, x: Tensor, rotation: Rotation | None, scope: Scope = None) -> Tensor:
        """x (B, T, n_embd) -> (B, T, n_embd); `rotation` are the rotary tables of these T positions, or None."""
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))  # (B, T, n_head + 2 n_kv_head, head_dim)
        if scope is None and self.watch is None and short_attention.applies(heads):
            y = self.attend_short(heads, rotation)
        else:
            y = self.attend_any(heads, rotation, scope)
        y = self.output(y)
        return F.dropout(y, self.dropout, self.training) if self.dropout else y

    def attend_short(self, heads: Tensor, rotation: Rotation | None) -> Tensor:
        """heads (B, T, n_head + 2 n_kv_head, head_dim) -> (B, T, n_head * head_dim), in one function for CPUs."""
        q_weight = k_weight = eps = None
        if self.q_norm is not None and self.k_norm is not None:
            q_weight, k_weight, eps = self.q_norm.weight, self.k_norm.weight, self.q_norm.eps
        cos, sin = rotation or (None, None)
        y: Tensor = ShortAttention.apply(  # type: ignore[no-untyped-call]
            heads, q_weight, k_weight, eps, cos, sin, self.n_head, self.n_kv_head
        )
        return y

    def attend_any(self, heads: Tensor, rotation: Rotation | None, scope: Scope) -> Tensor:
        """The same for any length and device, with a cache or documents too."""
        B, T, _, _ = heads.shape
        q, k, v = self.queries_keys_values(heads, rotation)
        if isinstance(scope, KVCache):
            y = self.attend_cached(q, k, v, scope)
        else:
            y = self.attend(q, k, v) if scope is None else self.mix(q, k, v, scope.visible)
        return y.transpose(1, 2).reshape(B, T, -1)  # (B, T, n_head * head_dim)

    def queries_keys_values(self, heads: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """heads (B, T, n_head + 2 n_kv_head, head_dim) -> normed, rotated and by head: (B, heads, T, head_dim) each."""
        q, k, v = heads.split([self.n_head, self.n_kv_head, self.n_kv_head], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Each position attends to itself and those before it."""
        return self.mix(q, k, v)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """The values (B, n_kv_head, T, head_dim) by their weights: (B, n_head, T, head_dim).

        visible (B, 1, T, T): which keys a query attends to; None: itself and those before it.
        """
        if self.watch is not None:
            weights = self.weights(q, k, visible)  # (B, n_head, T, T)
            self.watch(weights)
            with torch.autocast(q.device.type, enabled=False):
                y: Tensor = (weights @ self.share(v).to(weights.dtype)).to(v.dtype)
            return y
        k, v = self.share(k), self.share(v)
        dtype = v.dtype
        if dtype == torch.bfloat16 and q.device.type == "cpu" and q.size(2) < FASTER_IN_BFLOAT16:
            dtype = torch.float32
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        with torch.autocast(q.device.type, enabled=False):
            if self.by_products or _leaks(q):
                return attend_by_products(q, k, v, visible)
            return F.scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None)

    def weights(self, q: Tensor, k: Tensor, visible: Tensor | None = None) -> Tensor:
        """By which the values are mixed: softmax(q k / sqrt(head_dim)) over what is visible, by default the present and
        the past.

        q (B, n_head, T, head_dim), k (B, n_kv_head, T, head_dim) -> (B, n_head, T, T), in float32 at least. torch's
        kernels keep them to themselves.
        """
        T, dtype = q.size(2), torch.promote_types(q.dtype, torch.float32)
        with torch.autocast(q.device.type, enabled=False):
            scores = q.to(dtype) @ self.share(k).to(dtype).mT * self.head_dim**-0.5
        if visible is None:
            visible = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()
        weights: Tensor = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        return weights

    def attend_cached(self, q: Tensor, k: Tensor, v: Tensor, cache: KVCache) -> Tensor:
        """The same with the keys and values of `cache` before these T positions."""
        B, H, T, D = q.shape
        k, v = cache.append(self.layer, k.to(cache.keys[0].dtype), v.to(cache.keys[0].dtype))
        q, visible = q.to(k.dtype), cache.visible
        if T == 1:  # the group of query heads that share a key head become its rows: nothing is copied
            q = q.view(B, self.n_kv_head, H // self.n_kv_head, D)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).view(B, H, 1, D)
        return F.scaled_dot_product_attention(q, self.share(k), self.share(v), attn_mask=visible)

    def share(self, x: Tensor) -> Tensor:
        """Repeat each key/value head for its group of query heads: (B, n_kv_head, ...) -> (B, n_head, ...)."""
        groups = self.n_head // self.n_kv_head
        return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """Attention written out: q, k, v (B, n_head, T, head_dim) -> the same shape; visible (B, 1, T, T), or None: causal.

    Five operators forward and eight backward. What torch composes on MPS while it trains takes 11 and 8, in half
    precision 16 and 12, because it computes that in float32.
    """
    B, H, T, D = q.shape
    if visible is None:
        hidden = torch.full((T, T), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
    else:
        hidden = torch.zeros_like(visible, dtype=q.dtype).masked_fill(~visible, -torch.inf)
    hidden = hidden.expand(B, H, T, T).flatten(0, 1)
    q, k, v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)  # (B n_head, T, head_dim)
    weights = torch.baddbmm(hidden, q, k.mT, alpha=D**-0.5).softmax(dim=-1)  # (B n_head, T, T)
    return torch.bmm(weights, v).view(B, H, T, D)


def _leaks(q: Tensor) -> bool:
    """Whether torch's kernel may let a position see the next three: on MPS in half precision, where no gradient is
    asked for (pytorch #195910). The loss of an evaluation would be too good, and nothing would say so."""
    return q.device.type == "mps" and q.dtype != torch.float32 and not torch.is_grad_enabled()


def entropy(weights: Tensor) -> Tensor:
    """Of each distribution over the keys, in nats: (..., T) -> (...). 0: all on one token; log(n): evenly on n."""
    nats: Tensor = torch.special.entr(weights).sum(dim=-1)
    return nats
