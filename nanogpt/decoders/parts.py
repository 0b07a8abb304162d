"""A model's weights as a decoder takes them: by part, with all folded in that depends on the token alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.decoders.affine import Affine
from nanogpt.weights.safe_loading import Array

Linear: TypeAlias = Affine[Array]
Norm: TypeAlias = Affine[Array]


@dataclass(frozen=True)
class Block:
    """The rows of `qkv` are query heads, key heads, value heads; those of a SwiGLU's `up` are gates, then ups."""

    attention_norm: Norm
    qkv: Linear
    q_norm: Array | None
    k_norm: Array | None
    output: Linear
    feedforward_norm: Norm
    up: Linear
    down: Linear


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of every position, (block_size, head_dim / 2): coordinate i turns with i + head_dim / 2."""

    cos: Array
    sin: Array


@dataclass(frozen=True)
class Parts:
    """`table`: what a token becomes, (vocab_size, n_embd); `head` is another where the two are not tied."""

    table: Array
    positions: Array | None
    rotation: Rotation | None
    blocks: list[Block]
    final_norm: Norm
    head: Linear


def parts_of(config: ModelConfig, arrays: Mapping[str, Array]) -> Parts:
    """The parts of a model, from its weights by GPT's names."""
    table = arrays["token_embedding.weight"]
    head = table if config.tie_weights else arrays["head.weight"]
    return Parts(
        table=_of_unit_mean_square(table, config.norm_eps) if config.embedding_norm else table,
        positions=arrays.get("position_embedding.weight"),
        rotation=_rotation(config) if config.position == "rope" else None,
        blocks=[_block(arrays, f"blocks.{layer}") for layer in range(config.n_layer)],
        final_norm=Norm(*_pair(arrays, "final_norm")),
        head=Linear(head, None),
    )


def _block(arrays: Mapping[str, Array], name: str) -> Block:
    return Block(
        attention_norm=Norm(*_pair(arrays, f"{name}.attention_norm")),
        qkv=Linear(*_pair(arrays, f"{name}.attention.qkv")),
        q_norm=arrays.get(f"{name}.attention.q_norm.weight"),
        k_norm=arrays.get(f"{name}.attention.k_norm.weight"),
        output=Linear(*_pair(arrays, f"{name}.attention.output")),
        feedforward_norm=Norm(*_pair(arrays, f"{name}.feedforward_norm")),
        up=Linear(*_pair(arrays, f"{name}.feedforward.up")),
        down=Linear(*_pair(arrays, f"{name}.feedforward.down")),
    )


def _pair(arrays: Mapping[str, Array], name: str) -> tuple[Array, Array | None]:
    return arrays[f"{name}.weight"], arrays.get(f"{name}.bias")


def _of_unit_mean_square(table: Array, eps: float) -> Array:
    scaled: Array = table / np.sqrt(np.square(table).mean(axis=1, keepdims=True) + np.float32(eps))
    return scaled


def _rotation(config: ModelConfig) -> Rotation:
    """As nanogpt.model.positional.Rotary makes them: in float64 first."""
    frequencies = config.rope_theta ** (-np.arange(0, config.head_width, 2) / config.head_width)
    angles = np.outer(np.arange(config.block_size) / config.position_scale, frequencies)
    return Rotation(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
