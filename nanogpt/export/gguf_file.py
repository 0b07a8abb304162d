"""A model as one GGUF file, which llama.cpp and what is built on it open: Ollama, LM Studio and others.

llama.cpp's own converter knows vocabularies by a digest of what they do to a text, so it refuses each one that was made
here. This writer gives the same file without it (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    quants,
)
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.export.gguf_vocabulary import vocabulary
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights.published_names import GPT2_PARTS, GPT2_PREFIX
from nanogpt.weights.published_settings import is_qwen3

Float32 = npt.NDArray[np.float32]
F16, F32 = GGMLQuantizationType.F16, GGMLQuantizationType.F32
# What matrices are stored as. gguf can read K-quants and not make them; llama-quantize makes them of an f16 file.
PRECISIONS = {
    "f32": (F32, LlamaFileType.ALL_F32),
    "f16": (F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
TABLES = ("token_embd.weight", "output.weight")  # what suffers most at 4 bits: they have 8 then
POSITIONS = "position_embd.weight"  # llama.cpp adds its rows to those of the tokens, which takes float32

QWEN3_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GPT2_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
OUTSIDE_THE_BLOCKS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
}
STORED_IN_OUT = {theirs for _, theirs, is_matrix in GPT2_PARTS if is_matrix}


def write_gguf(
    path: Path, config: ModelConfig, tensors: dict[str, Tensor], tokenizer: Tokenizer, precision: str, name: str
) -> None:
    """Write the tensors of published_shapes.tensors_of() to `path`, whose folder is there. `name`: for people.

    Raises UserError for a tokenizer that llama.cpp cannot hold.
    """
    writer = GGUFWriter(path, "qwen3" if is_qwen3(config) else "gpt2")
    writer.add_name(name)
    _add_shape(writer, config)
    writer.add_file_type(PRECISIONS[precision][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_vocabulary(writer, tokenizer, config.vocab_size or 0)
    for tensor_name, array in _named(tensors):
        kind = storage_of(tensor_name, array.shape, precision)
        writer.add_tensor(tensor_name, quants.quantize(array, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def storage_of(name: str, shape: tuple[int, ...], precision: str) -> GGMLQuantizationType:
    """How a tensor is stored: matrices as `precision`, or f16 where a row is no whole number of its blocks. As
    nanogpt.compression.rounding has it, so what is measured there is this file."""
    if len(shape) < 2 or name == POSITIONS:
        return F32
    kind = PRECISIONS["q8_0" if precision == "q4_0" and name in TABLES else precision][0]
    block, _ = GGML_QUANT_SIZES[kind]
    return kind if shape[-1] % block == 0 else F16


def kept_at_f16(config: ModelConfig, precision: str) -> list[str]:
    """The kinds of matrices whose rows are no whole number of blocks, by their widths' names in the configuration."""
    block, _ = GGML_QUANT_SIZES[PRECISIONS[precision][0]]
    widths = {
        f"n_embd {config.n_embd}": config.n_embd,
        f"n_head x head_dim {config.n_head * config.head_width}": config.n_head * config.head_width,
        f"ffn_dim {config.ffn_width}": config.ffn_width,
    }
    return [name for name, width in widths.items() if width % block]


def _add_shape(writer: GGUFWriter, config: ModelConfig) -> None:
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.n_head)
    if not is_qwen3(config):
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_width)
    if config.position_scale != 1:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.position_scale)


def _add_vocabulary(writer: GGUFWriter, tokenizer: Tokenizer, rows: int) -> None:
    found = vocabulary(tokenizer, rows)
    writer.add_tokenizer_model(found.kind)
    writer.add_tokenizer_pre(found.rule)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    if found.kind == "gpt2":
        writer.add_token_merges(found.merges)
    else:
        writer.add_token_scores([0.0] * len(found.tokens))  # of merges, of which it has none
        writer.add_add_space_prefix(False)
    writer.add_eos_token_id(found.end)
    writer.add_bos_token_id(found.end)
    if found.unknown is not None:
        writer.add_unk_token_id(found.unknown)
    writer.add_add_bos_token(False)


def _named(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Float32]]:
    """Each tensor by llama.cpp's name; matrices are (out, in) there."""
    for published, tensor in tensors.items():
        name, stored_in_out = _name_of(published.removeprefix(GPT2_PREFIX))
        matrix = tensor.t() if stored_in_out and tensor.dim() == 2 else tensor
        yield name, np.ascontiguousarray(matrix.numpy())


def _name_of(published: str) -> tuple[str, bool]:
    """llama.cpp's name, and whether a matrix of this name is stored (in, out)."""
    module, _, kind = published.rpartition(".")
    if module in OUTSIDE_THE_BLOCKS:
        return f"{OUTSIDE_THE_BLOCKS[module]}.{kind}", False
    layer, _, part = module.removeprefix("model.layers.").removeprefix("h.").partition(".")
    return f"blk.{layer}.{(QWEN3_NAMES | GPT2_NAMES)[part]}.{kind}", part in STORED_IN_OUT
