"""The tensors of the two published shapes, GPT-2's and Qwen3's, named and shaped as in transformers, from ours.

A weightless norm of the embedding depends on the token alone, so it is applied once to the table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.model.gpt import GPT, weight_of
from nanogpt.weights.published_names import GPT2_PARTS, QWEN3_PARTS
from nanogpt.weights.published_settings import is_qwen3, is_tied


def tensors_of(model: GPT) -> dict[str, Tensor]:
    """The tensors of model.safetensors, float32 on the CPU, named and shaped as transformers names and shapes them."""
    tensors = _to_qwen3(model) if is_qwen3(model.config) else _to_gpt2(model)
    return {name: tensor.detach().float().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _table(model: GPT) -> Tensor:
    table = model.token_embedding.weight
    return F.rms_norm(table, table.shape[-1:], eps=model.config.norm_eps) if model.config.embedding_norm else table


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
