"""The two published shapes, GPT-2's and Qwen3's: transformers' config.json and tensors, to and from ours.

They hold the same numbers in other shapes: GPT-2 stores its matrices (in, out) and query, key and value as one, Qwen3
stores (out, in) and all apart. A weightless norm of the embedding depends on the token alone, so it is applied once to
the table.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT, weight_of

# The parts by which the two are known; everything else of a configuration is a number in them.
GPT2_SHAPE = dict(norm="layernorm", position="learned", qk_norm=False)
QWEN3_SHAPE = dict(norm="rmsnorm", position="rope", qk_norm=True, activation="swiglu", bias=False)
GPT2_ACTIVATIONS = {"gelu": "gelu_new", "gelu_erf": "gelu", "relu2": "relu2"}


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """config.json for transformers. Raises UserError when the options fit neither shape."""
    common = dict(
        vocab_size=config.vocab_size,
        tie_word_embeddings=_tied(config),
        torch_dtype="float32",
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.02,
    )
    if is_qwen3(config):
        return common | dict(
            model_type="qwen3",
            architectures=["Qwen3ForCausalLM"],
            hidden_size=config.n_embd,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_width,
            hidden_act="silu",
            max_position_embeddings=config.block_size,
            rms_norm_eps=config.norm_eps,
            attention_bias=False,
            attention_dropout=0.0,
            use_sliding_window=False,
            **_rope_settings(config),
        )
    plain_heads = config.kv_heads == config.n_head and config.head_width * config.n_head == config.n_embd
    if _fits(config, GPT2_SHAPE) and config.activation in GPT2_ACTIVATIONS and plain_heads:
        return common | dict(
            model_type="gpt2",
            architectures=["GPT2LMHeadModel"],
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.ffn_width,
            n_positions=config.block_size,
            n_ctx=config.block_size,
            activation_function=GPT2_ACTIVATIONS[config.activation],
            layer_norm_epsilon=config.norm_eps,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            resid_pdrop=config.dropout,
        )
    raise UserError(
        "model: its options fit neither published shape; export needs preset gpt2 or modern with their own "
        "norm, position, qk_norm and activation"
    )


def _rope_settings(config: ModelConfig) -> dict[str, Any]:
    """The rotary positions, as transformers 5 reads them and (rope_theta, rope_scaling) as those before it."""
    theta = {"rope_theta": config.rope_theta}
    if config.position_scale == 1:
        return {**theta, "rope_parameters": {"rope_type": "default", **theta}}
    scaling = {"rope_type": "linear", "factor": config.position_scale}
    return {**theta, "rope_scaling": scaling, "rope_parameters": {**scaling, **theta}}


def values_from(settings: dict[str, Any]) -> dict[str, Any]:
    """ModelConfig's values from config.json of a GPT-2 or Qwen3. Raises KeyError, TypeError or ValueError."""
    kind = settings["model_type"]
    if kind == "qwen3":
        if settings.get("use_sliding_window") or settings.get("attention_bias"):
            raise ValueError("sliding windows and attention biases are not supported")
        if settings.get("hidden_act", "silu") != "silu":
            raise ValueError(f"hidden_act {settings['hidden_act']} is not supported")
        rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type not in ("default", "linear"):
            raise ValueError(f"rope type {rope_type} is not supported")
        return dict(
            preset="modern",
            embedding_norm=False,
            vocab_size=settings["vocab_size"],
            tie_weights=settings.get("tie_word_embeddings", False),
            n_layer=settings["num_hidden_layers"],
            n_head=settings["num_attention_heads"],
            n_kv_head=settings["num_key_value_heads"],
            n_embd=settings["hidden_size"],
            head_dim=settings.get("head_dim", settings["hidden_size"] // settings["num_attention_heads"]),
            ffn_dim=settings["intermediate_size"],
            block_size=settings["max_position_embeddings"],
            norm_eps=settings["rms_norm_eps"],
            rope_theta=settings.get("rope_theta") or rope["rope_theta"],
            position_scale=rope["factor"] if rope_type == "linear" else 1.0,
        )
    if kind == "gpt2":
        if settings.get("scale_attn_by_inverse_layer_idx") or not settings.get("scale_attn_weights", True):
            raise ValueError("attention scaled otherwise than by its width is not supported")
        activations = {theirs: ours for ours, theirs in GPT2_ACTIVATIONS.items()}
        return dict(
            preset="gpt2",
            vocab_size=settings["vocab_size"],
            tie_weights=settings.get("tie_word_embeddings", True),
            n_layer=settings["n_layer"],
            n_head=settings["n_head"],
            n_embd=settings["n_embd"],
            ffn_dim=settings.get("n_inner") or 4 * settings["n_embd"],
            block_size=settings["n_positions"],
            activation=activations[settings.get("activation_function", "gelu_new")],
            norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        )
    raise ValueError(f'model_type "{kind}", allowed are gpt2 and qwen3')


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


def is_qwen3(config: ModelConfig) -> bool:
    """Whether these options are Qwen3's shape."""
    return _fits(config, QWEN3_SHAPE)


def _fits(config: ModelConfig, shape: dict[str, Any]) -> bool:
    return all(getattr(config, key) == value for key, value in shape.items())


def _tied(config: ModelConfig) -> bool:
    return config.tie_weights and not config.embedding_norm  # a folded norm parts the table from the head


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
    if not _tied(model.config):
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
    if not _tied(model.config):
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
