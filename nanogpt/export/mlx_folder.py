"""Which models mlx-lm opens, on Apple's chips and by mlx-cpu on Linux, and how: its folder is the Hugging Face one."""

from __future__ import annotations

import shlex

from nanogpt import markdown
from nanogpt.config import ModelConfig
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import published_settings

LIBRARY = "mlx"


def refusal(config: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why mlx-lm cannot hold this model; empty where it can. Raises UserError for a shape that is not published.

    Its GPT-2 (mlx_lm/models/gpt2.py) reads no activation and no width of the feed-forward layer, and has no head.
    """
    published_settings.settings_of(config)
    if published_settings.is_qwen3(config):
        return ""
    if config.activation in published_settings.OTHER_ACTIVATIONS:
        return f"model.activation is {config.activation}; mlx-lm's GPT-2 computes gelu, by tanh"
    if not published_settings.is_tied(config):
        option = "embedding_norm is true" if config.tie_weights else "tie_weights is false"
        return f"model.{option}; mlx-lm's GPT-2 has no head but the table of tokens"
    if config.ffn_width != 4 * config.n_embd:
        return f"model.ffn_dim is {config.ffn_width}; mlx-lm's GPT-2 has 4 n_embd, {4 * config.n_embd}"
    return ""


def use(config: ModelConfig, tokenizer: Tokenizer, precision: str, prompt: str) -> str:
    """The card's words on how to use it."""
    tokens = config.block_size // 2
    command = (
        f"pip install mlx-lm\nmlx_lm.generate --model . --prompt {shlex.quote(prompt)} --max-tokens {tokens} --temp 0.8"
    )
    python = f"""from mlx_lm import generate, load
from mlx_lm.sample_utils import make_sampler

model, tokenizer = load(".")
print(generate(model, tokenizer, {prompt!r}, max_tokens={tokens}, sampler=make_sampler(temp=0.8)))"""
    lines = [
        f"Keep prompt and answer within {config.block_size:,} tokens: it was trained on no more, and nothing says so.",
        "`pip install mlx-lm` is enough on a Mac; on Linux it is `pip install mlx-lm 'mlx[cpu]'`.",
    ]
    if isinstance(tokenizer, CharTokenizer):
        lines.append("Each character is a token; those that it does not know are all the same token to it.")
    notes = "\n".join(f"- {line}" for line in lines)
    return (
        f"In this folder ({precision}), with mlx-lm:\n\n{markdown.block(command, 'sh')}\n\nor in Python:\n\n"
        f"{markdown.block(python, 'python')}\n\n{notes}"
    )
