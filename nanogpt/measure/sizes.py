"""What a configuration weighs before anything of it is built: parameters, operations. Arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.config import ModelConfig

FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Parameters:
    """Numbers that are learned, by part; a tied head is counted with the embedding."""

    embedding: int  # the tables that are looked up: tokens, learned positions
    attention: int  # of all blocks, their norms included
    feedforward: int
    final_norm: int
    head: int
    matrices: int  # those of attention and feedforward that are matrices: what Muon updates, what LoRA adapts

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.feedforward + self.final_norm + self.head


def matrix_shapes(model: ModelConfig) -> list[tuple[int, int]]:
    """(rows, columns) of each matrix of one block that is a linear map of its own: q, k, v, output, up, gate, down."""
    width, queries, keys = model.n_embd, model.n_head * model.head_width, model.kv_heads * model.head_width
    into_hidden = [(model.ffn_width, width)] * (2 if model.activation == "swiglu" else 1)
    return [(queries, width), (keys, width), (keys, width), (width, queries), *into_hidden, (width, model.ffn_width)]


def vocabulary(model: ModelConfig) -> int:
    """Tokens. Raises ValueError while they are not known."""
    if model.vocab_size is None:
        raise ValueError("vocab_size is not known yet: it comes from the tokenizer")
    return model.vocab_size


def parameters(model: ModelConfig) -> Parameters:
    """Counts of nanogpt.model.gpt.GPT. Raises ValueError while vocab_size is not known."""
    shapes = matrix_shapes(model)
    table = vocabulary(model) * model.n_embd
    norm = model.n_embd * (2 if model.norm == "layernorm" and model.bias else 1)
    biases = [rows if model.bias else 0 for rows, _ in shapes]
    sizes = [rows * columns for rows, columns in shapes]
    attention = sum(sizes[:4]) + sum(biases[:4]) + norm + (2 * model.head_width if model.qk_norm else 0)
    feedforward = sum(sizes[4:]) + sum(biases[4:]) + norm
    return Parameters(
        embedding=table + (model.block_size * model.n_embd if model.position == "learned" else 0),
        attention=model.n_layer * attention,
        feedforward=model.n_layer * feedforward,
        final_norm=norm,
        head=0 if model.tie_weights else table,
        matrices=model.n_layer * sum(sizes),
    )


def flops_per_token(model: ModelConfig, lora_rank: int = 0) -> int:
    """Of forward and backward, as nanogpt.model.gpt.GPT.flops_per_token counts them (PaLM, appendix B); with adapters
    of `lora_rank`, whose model has no gradients of its own weights."""
    counts = parameters(model)
    in_products = counts.total - counts.embedding + (vocabulary(model) * model.n_embd if model.tie_weights else 0)
    adapters = model.n_layer * sum(lora_rank * (rows + columns) for rows, columns in matrix_shapes(model))
    of_products = (4 if lora_rank else 6) * in_products + 6 * adapters
    return of_products + 12 * model.n_layer * model.n_head * model.head_width * model.block_size


def kv_cache_bytes(model: ModelConfig) -> int:
    """Keys and values of a whole context while text is written (nanogpt.model.attention.KVCache)."""
    return 2 * model.n_layer * model.kv_heads * model.head_width * model.block_size * FLOAT32
