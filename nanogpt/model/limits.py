"""How much is computed at once: what the model keeps to, and what the prediction of memory counts with; and whether a
model can be here at all. No torch."""

from nanogpt.config import ModelConfig
from nanogpt.faults import UserError
from nanogpt.machine import memory_bytes
from nanogpt.units import byte_size

LOGITS_AT_ONCE = 32 * 2**20  # elements; 128 MiB in float32. Beyond it the loss is computed in chunks.
TOKENS_AT_ONCE = 8192  # in a forward pass of an evaluation
# Positions; up to it attention in bfloat16 on a CPU is nanogpt.model.short_attention. 31 instead of 43 ms (4 windows,
# 8 heads); at 1024 it is 45 instead of 40.
SHORT_WINDOW = 512


def require_memory(config: ModelConfig, copies: int = 1) -> None:
    """Raise UserError where the matrices of `config` alone, `copies` times in float32, are more than this machine has.

    Asked before anything is built: a process that fills the memory may not hear that it should end.
    """
    heads = 2 * (config.n_head + config.kv_heads) * config.head_width  # queries and output, keys and values
    block = heads + config.ffn_width * (3 if config.activation == "swiglu" else 2)
    tables = (config.vocab_size or 1) * (1 if config.tie_weights else 2)
    positions = config.block_size * (copies * config.n_embd if config.position == "learned" else config.head_width)
    needed = 4 * (copies * config.n_embd * (config.n_layer * block + tables) + positions)
    there = memory_bytes()
    if needed > there:
        tokens = f" and {config.vocab_size} tokens" if config.vocab_size else ""  # else not known yet
        held = "weights" if copies == 1 else "weights, gradients and moments"
        raise UserError(
            f"model: n_layer {config.n_layer}, n_head {config.n_head}, n_embd {config.n_embd}, ffn_dim "
            f"{config.ffn_width}, block_size {config.block_size}{tokens} need "
            f"{byte_size(needed)} for {held}; found {byte_size(there)} of memory, the model should be smaller"
        )
