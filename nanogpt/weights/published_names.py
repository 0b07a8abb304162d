"""Where each of our weights lies in the two published shapes, GPT-2's and Qwen3's, by transformers' names.

They hold the same numbers in other shapes: GPT-2 stores its matrices (in, out) and query, key and value as one, Qwen3
stores (out, in) and all apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nanogpt.config import ModelConfig
from nanogpt.weights.published_settings import is_qwen3
from nanogpt.weights.safe_loading import Array, Size

# Our name of each part of a Qwen3 block, and theirs of what is stacked in it.
QWEN3_PARTS = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "attention.output": ("self_attn.o_proj",),
    "feedforward_norm": ("post_attention_layernorm",),
    "feedforward.up": ("mlp.gate_proj", "mlp.up_proj"),
    "feedforward.down": ("mlp.down_proj",),
}
# Our name of each part of a GPT-2 block, theirs, and whether theirs is stored (in, out).
GPT2_PARTS = (
    ("attention_norm", "ln_1", False),
    ("attention.qkv", "attn.c_attn", True),
    ("attention.output", "attn.c_proj", True),
    ("feedforward_norm", "ln_2", False),
    ("feedforward.up", "mlp.c_fc", True),
    ("feedforward.down", "mlp.c_proj", True),
)
GPT2_PREFIX = "transformer."  # the published gpt2 files lack it, save_pretrained writes it


@dataclass(frozen=True)
class Origin:
    """One of our weights in a published file: the tensors `names`, row below row; `transposed`: stored (in, out)."""

    names: tuple[str, ...]
    transposed: bool = False

    def array(self, tensors: Mapping[str, Array]) -> Array:
        """The weight. Raises KeyError for a missing name, ValueError for parts of different widths."""
        parts = [tensors[name] for name in self.names]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return whole.T if self.transposed else whole

    def size(self, sizes: Mapping[str, Size]) -> Size:
        """The weight's size; raises as array() does."""
        parts = [sizes[name] for name in self.names]
        if len({part[1:] for part in parts}) > 1 or (len(parts) > 1 and () in parts):
            raise ValueError(f"{' and '.join(self.names)} have different widths")
        whole = parts[0] if len(parts) == 1 else (sum(part[0] for part in parts), *parts[0][1:])
        return whole[::-1] if self.transposed else whole


def published_names(config: ModelConfig, layer: int, part: str) -> tuple[str, ...]:
    """What transformers calls `part` of a block, such as attention.qkv: one name, or one for each stacked in it."""
    if is_qwen3(config):
        return tuple(f"model.layers.{layer}.{name}" for name in QWEN3_PARTS[part])
    return tuple(f"transformer.h.{layer}.{theirs}" for ours, theirs, _ in GPT2_PARTS if ours == part)


def origins(config: ModelConfig) -> Iterator[tuple[str, Origin]]:
    """Where each of our weights lies in a Hugging Face folder; GPT-2's names without GPT2_PREFIX.

    One by one, so that whoever looks for them stops at the first that is missing: 10**9 layers may be configured.
    """
    return _of_qwen3(config) if config.position == "rope" else of_gpt2(config)


def _of_qwen3(config: ModelConfig) -> Iterator[tuple[str, Origin]]:
    yield "token_embedding.weight", Origin(("model.embed_tokens.weight",))
    yield "final_norm.weight", Origin(("model.norm.weight",))
    if not config.tie_weights:
        yield "head.weight", Origin(("lm_head.weight",))
    for layer in range(config.n_layer):
        for ours, theirs in QWEN3_PARTS.items():
            names = tuple(f"model.layers.{layer}.{name}.weight" for name in theirs)
            yield f"blocks.{layer}.{ours}.weight", Origin(names)


def of_gpt2(config: ModelConfig, in_first: bool = True) -> Iterator[tuple[str, Origin]]:
    """Where each weight lies among GPT-2's names; `in_first`: its matrices are (in, out), nanoGPT's are not."""
    yield "token_embedding.weight", Origin(("wte.weight",))
    yield "position_embedding.weight", Origin(("wpe.weight",))
    yield "final_norm.weight", Origin(("ln_f.weight",))
    if not config.tie_weights:
        yield "head.weight", Origin(("lm_head.weight",))
    if config.bias:
        yield "final_norm.bias", Origin(("ln_f.bias",))
    for layer in range(config.n_layer):
        for ours, theirs, is_matrix in GPT2_PARTS:
            place = f"h.{layer}.{theirs}"
            yield f"blocks.{layer}.{ours}.weight", Origin((f"{place}.weight",), is_matrix and in_first)
            if config.bias:
                yield f"blocks.{layer}.{ours}.bias", Origin((f"{place}.bias",))
