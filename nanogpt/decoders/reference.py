"""The model written out in numpy: what a fast decoder's logits are compared with before it is believed.

It shares no code with the decoders, and is there in 0.1 s where torch takes 1.5 s to import; the tests compare it with
torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.decoders.parts import Block, Linear, Norm, Parts, Rotation
from nanogpt.decoders.protocol import Logits
from nanogpt.weights.safe_loading import Array


@np.errstate(all="ignore")  # broken weights compute NaN, which whoever decodes says
def logits_of(config: ModelConfig, parts: Parts, tokens: Sequence[int]) -> Logits:
    """The logits (T, vocab_size) behind each of T tokens of one text; NaN, without a warning, of broken weights."""
    x = parts.table[list(tokens)]  # (T, n_embd)
    if parts.positions is not None:
        x = x + parts.positions[: len(tokens)]
    for block in parts.blocks:
        x = x + _attention(config, block, parts.rotation, _norm(config, x, block.attention_norm))
        x = x + _linear(_activated(config, _linear(_norm(config, x, block.feedforward_norm), block.up)), block.down)
    return _linear(_norm(config, x, parts.final_norm), parts.head)


def _linear(x: Array, linear: Linear) -> Array:
    product: Array = x @ linear.weight.T
    return product if linear.bias is None else product + linear.bias


def _norm(config: ModelConfig, x: Array, norm: Norm) -> Array:
    if config.norm == "layernorm":
        x = x - x.mean(axis=-1, keepdims=True)
    normed = _of_unit_mean_square(x, config.norm_eps) * norm.weight
    return normed if norm.bias is None else normed + norm.bias


def _of_unit_mean_square(x: Array, eps: float) -> Array:
    unit: Array = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps))
    return unit


def _attention(config: ModelConfig, block: Block, rotation: Rotation | None, x: Array) -> Array:
    heads, width, T = config.n_head, config.head_width, len(x)
    qkv = _linear(x, block.qkv).reshape(T, -1, width).swapaxes(0, 1)  # (n_head + 2 n_kv_head, T, head_dim)
    q, k, v = qkv[:heads], qkv[heads : heads + config.kv_heads], qkv[heads + config.kv_heads :]
    if block.q_norm is not None and block.k_norm is not None:
        q = _of_unit_mean_square(q, config.norm_eps) * block.q_norm
        k = _of_unit_mean_square(k, config.norm_eps) * block.k_norm
    if rotation is not None:
        q, k = _rotated(q, rotation), _rotated(k, rotation)
    k, v = (np.repeat(side, heads // config.kv_heads, axis=0) for side in (k, v))
    scores = q @ k.swapaxes(1, 2) / np.float32(math.sqrt(width))  # (n_head, T, T)
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32) @ v  # (n_head, T, head_dim)
    return _linear(mixed.swapaxes(0, 1).reshape(T, -1), block.output)


def _rotated(x: Array, rotation: Rotation) -> Array:
    cos, sin = rotation.cos[: x.shape[1]], rotation.sin[: x.shape[1]]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _activated(config: ModelConfig, hidden: Array) -> Array:
    activated: Array
    match config.activation:
        case "swiglu":
            gate, up = np.split(hidden, 2, axis=-1)
            activated = gate / (1 + np.exp(-gate)) * up
        case "gelu":
            activated = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        case "gelu_erf":
            erf = np.vectorize(math.erf, otypes=[np.float32])
            activated = 0.5 * hidden * (1 + erf(hidden * np.float32(math.sqrt(0.5))))
        case "relu2":
            activated = np.square(np.maximum(hidden, 0))
    return activated.astype(np.float32)
