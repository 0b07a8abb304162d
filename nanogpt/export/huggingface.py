"""A trained model as a folder that transformers opens: GPT2LMHeadModel or Qwen3ForCausalLM, with its tokenizer.

The two formats hold the same numbers in other shapes: GPT-2 stores its matrices (in, out) and query, key and value as
one, Qwen3 stores (out, in) and all apart. A weightless norm of the embedding depends on the token alone, so it is
applied once to the table.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig, validate
from nanogpt.data.tokenizer import load_tokenizer
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT

WEIGHTS = "model.safetensors"
# The parts by which the two published shapes are known; everything else of a configuration is a number in them.
GPT2_SHAPE = dict(norm="layernorm", position="learned", qk_norm=False)
QWEN3_SHAPE = dict(norm="rmsnorm", position="rope", qk_norm=True, activation="swiglu", bias=False)
GPT2_ACTIVATIONS = {"gelu": "gelu_new", "relu2": "relu2"}


def export(model: GPT, tokenizer, folder: Path | str, card: str | None = None) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    The weights come last, and those of an older export go first: half an export is never taken for a whole one.
    Weights are float32. `card` is the text of README.md. Raises UserError when the model's options fit neither shape.
    """
    folder = Path(folder)
    settings, tensors = reference_config(model), weights(model)
    (folder / WEIGHTS).unlink(missing_ok=True)
    tokenizer.save(folder)
    durable.write_json(folder / "config.json", settings)
    durable.write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.8, "top_k": 50})
    if card is not None:
        durable.write_text(folder / "README.md", card)
    durable.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return sorted(path for path in folder.iterdir() if path.is_file())


def load(folder: Path | str) -> tuple[GPT, Any]:
    """The model and tokenizer in an exported folder. Raises UserError naming what is missing or does not fit."""
    folder = Path(folder)
    return load_model(folder), load_tokenizer(folder)


def load_model(folder: Path | str) -> GPT:
    """The model in a folder with config.json and model.safetensors of a GPT-2 or Qwen3, ready to decode (float32)."""
    folder = Path(folder)
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: {name} is missing; expected a folder written by the export")
    path = folder / "config.json"
    try:
        values = model_values(durable.read_json(path))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the configuration of a GPT-2 or Qwen3: {error}") from error
    config = validate(ModelConfig, values, str(path))
    model = GPT(config)
    read = _from_qwen3 if config.position == "rope" else _from_gpt2
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS}: is not a safetensors file ({error})") from error
    try:
        model.load_state_dict(read(tensors, config))
    except (KeyError, RuntimeError) as error:
        told = " ".join(str(error).split())  # torch lists the tensors a line each
        raise UserError(f"{folder / WEIGHTS}: does not fit config.json: {told}") from error
    return model.eval()


def reference_config(model: GPT) -> dict[str, Any]:
    """config.json for transformers. Raises UserError when the options fit neither shape."""
    config = model.config
    common = dict(
        vocab_size=config.vocab_size,
        tie_word_embeddings=_tied(config),
        torch_dtype="float32",
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.02,
    )
    if _fits(config, QWEN3_SHAPE):
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
            rope_theta=config.rope_theta,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            attention_bias=False,
            attention_dropout=0.0,
            use_sliding_window=False,
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


def model_values(settings: dict[str, Any]) -> dict[str, Any]:
    """ModelConfig's values from config.json of a GPT-2 or Qwen3. Raises KeyError, TypeError or ValueError."""
    kind = settings["model_type"]
    if kind == "qwen3":
        if settings.get("use_sliding_window") or settings.get("attention_bias"):
            raise ValueError("sliding windows and attention biases are not supported")
        rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope type {rope['rope_type']} is not supported")
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
        )
    if kind == "gpt2":
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


def weights(model: GPT) -> dict[str, Tensor]:
    """The tensors of model.safetensors, float32 on the CPU, named and shaped as transformers names and shapes them."""
    tensors = _to_qwen3(model) if _fits(model.config, QWEN3_SHAPE) else _to_gpt2(model)
    return {name: tensor.detach().float().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _fits(config: ModelConfig, shape: dict[str, Any]) -> bool:
    return all(getattr(config, key) == value for key, value in shape.items())


def _tied(config: ModelConfig) -> bool:
    return config.tie_weights and not config.embedding_norm  # a folded norm parts the table from the head


def _table(model: GPT) -> Tensor:
    table = model.token_embedding.weight
    return F.rms_norm(table, table.shape[-1:], eps=model.config.norm_eps) if model.config.embedding_norm else table


def _to_qwen3(model: GPT) -> dict[str, Tensor]:
    tensors = {"model.embed_tokens.weight": _table(model), "model.norm.weight": model.final_norm.weight}
    if not _tied(model.config):
        tensors["lm_head.weight"] = model.head.weight
    for layer, block in enumerate(model.blocks):
        q, k, v = block.attention.qkv.weight.split(block.attention.row_blocks)
        gate, up = block.feedforward.up.weight.chunk(2)
        parts = {
            "input_layernorm": block.attention_norm.weight,
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.q_norm": block.attention.q_norm.weight,
            "self_attn.k_norm": block.attention.k_norm.weight,
            "self_attn.o_proj": block.attention.output.weight,
            "post_attention_layernorm": block.feedforward_norm.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.feedforward.down.weight,
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in parts.items()}
    return tensors


def _from_qwen3(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    table = tensors["model.embed_tokens.weight"]
    state = {
        "token_embedding.weight": table,
        "head.weight": table if config.tie_weights else tensors["lm_head.weight"],
        "final_norm.weight": tensors["model.norm.weight"],
    }
    for layer in range(config.n_layer):
        part = {
            name: tensors[f"model.layers.{layer}.{name}.weight"]
            for name in (
                "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm",
                "self_attn.k_norm", "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
                "mlp.down_proj",
            )
        }  # fmt: skip
        block = {
            "attention_norm": part["input_layernorm"],
            "attention.qkv": torch.cat([part[f"self_attn.{name}_proj"] for name in "qkv"]),
            "attention.q_norm": part["self_attn.q_norm"],
            "attention.k_norm": part["self_attn.k_norm"],
            "attention.output": part["self_attn.o_proj"],
            "feedforward_norm": part["post_attention_layernorm"],
            "feedforward.up": torch.cat([part["mlp.gate_proj"], part["mlp.up_proj"]]),
            "feedforward.down": part["mlp.down_proj"],
        }
        state |= {f"blocks.{layer}.{name}.weight": tensor for name, tensor in block.items()}
    return state


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
    tensors = {
        "transformer.wte.weight": _table(model),
        "transformer.wpe.weight": model.position_embedding.weight,
        "transformer.ln_f.weight": model.final_norm.weight,
        "transformer.ln_f.bias": _bias(model.final_norm),
    }
    if not _tied(model.config):
        tensors["lm_head.weight"] = model.head.weight
    for layer, block in enumerate(model.blocks):
        for ours, theirs, transposed in GPT2_PARTS:
            module = block.get_submodule(ours)
            name = f"transformer.h.{layer}.{theirs}"
            tensors[f"{name}.weight"] = module.weight.t() if transposed else module.weight
            tensors[f"{name}.bias"] = _bias(module)
    return tensors


def _bias(module: torch.nn.Module) -> Tensor:
    """The module's bias, or the zeros that stand for none: GPT2LMHeadModel always has one."""
    return module.bias if module.bias is not None else module.weight.new_zeros(module.weight.size(0))


def _from_gpt2(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    # The published gpt2 files lack the "transformer." prefix that save_pretrained writes.
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    state = {
        "token_embedding.weight": tensors["wte.weight"],
        "position_embedding.weight": tensors["wpe.weight"],
        "head.weight": tensors["wte.weight"] if config.tie_weights else tensors["lm_head.weight"],
        "final_norm.weight": tensors["ln_f.weight"],
        "final_norm.bias": tensors["ln_f.bias"],
    }
    for layer in range(config.n_layer):
        for ours, theirs, transposed in GPT2_PARTS:
            weight = tensors[f"h.{layer}.{theirs}.weight"]
            state[f"blocks.{layer}.{ours}.weight"] = weight.t() if transposed else weight
            state[f"blocks.{layer}.{ours}.bias"] = tensors[f"h.{layer}.{theirs}.bias"]
    return state
