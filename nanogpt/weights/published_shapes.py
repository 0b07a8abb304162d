"""The tensors of the two published shapes, GPT-2's and Qwen3's, named and shaped as in transformers, to and from ours.

They hold the same numbers in other shapes: GPT-2 stores its matrices (in, out) and query, key and value as one, Qwen3
stores (out, in) and all apart. A weightless norm of the embedding depends on the token alone, so it is applied once to
the table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.model.gpt import GPT, weight_of
from nanogpt.weights.published_settings import is_qwen3, is_tied


def tensors_of(model: GPT) -> dict[str, Tensor]:
    """The tensors of model.safetensors, float32 on the CPU, named and shaped as transformers names and shapes them."""
    tensors = _to_qwen3(model) if is_qwen3(model.config) else _to_gpt2(model)
    return {name: tensor.detach().float().cpu().clone().contiguous() for name, tensor in tensors.items()}


def weights_from(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """GPT's weights by their names, each once, from tensors as transformers names them. Raises KeyError."""
    return _from_qwen3(tensors, config) if config.position == "rope" else from_gpt2(tensors, config)


def published_names(config: ModelConfig, layer: int, part: str) -> tuple[str, ...]:
    """What transformers calls `part` of a block, such as attention.qkv: one name, or one for each stacked in it."""
    if is_qwen3(config):
        return tuple(f"model.layers.{layer}.{name}" for name in QWEN3_PARTS[part])
    return tuple(f"transformer.h.{layer}.{theirs}" for ours, theirs, _ in GPT2_PARTS if ours == part)


def _table(model: GPT) -> Tensor:
    table = model.token_embedding.weight
    return F.rms_norm(table, table.shape[-1:], eps=model.config.norm_eps) if model.config.embedding_norm else table


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


def _to_qwen3(model: GPT) -> dict[str, Tensor]:
    tensors = {"model.embed_tokens.weight": _table(model), "model.norm.weight": weight_of(model.final_norm)}
    stacked_rows = model.row_blocks()
    if not is_tied(model.config):
        tensors["lm_head.weight"] = model.head.weight
    for layer, block in enumerate(model.layers):
        for ours, theirs in QWEN3_PARTS.items():
            weight = weight_of(block.get_submodule(ours))
            rows = stacked_rows.get(weight, (weight.size(0),))
            parts = zip(theirs, weight.split(rows), strict=True)
            tensors |= {f"model.layers.{layer}.{name}.weight": part for name, part in parts}
    return tensors


def _from_qwen3(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    weights = {
        "token_embedding.weight": tensors["model.embed_tokens.weight"],
        "final_norm.weight": tensors["model.norm.weight"],
    }
    if not config.tie_weights:
        weights["head.weight"] = tensors["lm_head.weight"]
    for layer in range(config.n_layer):
        for ours, theirs in QWEN3_PARTS.items():
            stacked = [tensors[f"model.layers.{layer}.{name}.weight"] for name in theirs]
            weights[f"blocks.{layer}.{ours}.weight"] = _stack(stacked)
    return weights


def _stack(parts: list[Tensor]) -> Tensor:
    """One matrix below the other. On the meta device torch.cat would import torch's compiler first: 1.3 s."""
    if not parts[0].is_meta:
        return torch.cat(parts)
    return torch.empty(sum(part.size(0) for part in parts), *parts[0].shape[1:], device="meta")


# Our name of each part of a GPT-2 block, theirs, and whether theirs is stored (in, out).
GPT2_PARTS = (
    ("attention_norm", "ln_1", False),
    ("attention.qkv", "attn.c_attn", True),
    ("attention.output", "attn.c_proj", True),
    ("feedforward_norm", "ln_2", False),
    ("feedforward.up", "mlp.c_fc", True),
    ("feedforward.down", "mlp.c_proj", True),
)


def _to_gpt2(model: GPT) -> dict[str, Tensor]:
    _, positions = model.embedding_parameters()
    tensors = {
        "transformer.wte.weight": _table(model),
        "transformer.wpe.weight": positions,
        "transformer.ln_f.weight": weight_of(model.final_norm),
        "transformer.ln_f.bias": _bias(model.final_norm),
    }
    if not is_tied(model.config):
        tensors["lm_head.weight"] = model.head.weight
    for layer, block in enumerate(model.layers):
        for ours, theirs, transposed in GPT2_PARTS:
            module = block.get_submodule(ours)
            name = f"transformer.h.{layer}.{theirs}"
            tensors[f"{name}.weight"] = weight_of(module).t() if transposed else weight_of(module)
            tensors[f"{name}.bias"] = _bias(module)
    return tensors


def _bias(module: torch.nn.Module) -> Tensor:
    """The module's bias; zeros where it has none, because GPT2LMHeadModel always has one."""
    bias, weight = module.bias, weight_of(module)
    return bias if isinstance(bias, Tensor) else weight.new_zeros(weight.size(0))


def from_gpt2(tensors: dict[str, Tensor], config: ModelConfig, in_first: bool = True) -> dict[str, Tensor]:
    """GPT's weights from tensors by GPT-2's names; `in_first`: its matrices are (in, out). Raises KeyError."""
    # The published gpt2 files lack the "transformer." prefix that save_pretrained writes.
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    weights = {
        "token_embedding.weight": tensors["wte.weight"],
        "position_embedding.weight": tensors["wpe.weight"],
        "final_norm.weight": tensors["ln_f.weight"],
    }
    if not config.tie_weights:
        weights["head.weight"] = tensors["lm_head.weight"]
    if config.bias:
        weights["final_norm.bias"] = tensors["ln_f.bias"]
    for layer in range(config.n_layer):
        for ours, theirs, is_matrix in GPT2_PARTS:
            weight = tensors[f"h.{layer}.{theirs}.weight"]
            weights[f"blocks.{layer}.{ours}.weight"] = weight.t() if is_matrix and in_first else weight
            if config.bias:
                weights[f"blocks.{layer}.{ours}.bias"] = tensors[f"h.{layer}.{theirs}.bias"]
    return weights
