"""A trained model as a folder for onnxruntime: a graph with a cache of keys and values, the tokenizer and a card."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import onnx

from nanogpt import durable, markdown
from nanogpt.config import ModelConfig
from nanogpt.decoders import onnx_graph
from nanogpt.export import placing
from nanogpt.export.front_matter import CARD
from nanogpt.export.huggingface import GENERATION, is_export, write_settings
from nanogpt.export.target import require_target
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers import tokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import digests, published_settings
from nanogpt.weights.hugging_face import CONFIG
from nanogpt.weights.safe_loading import Array

WEIGHTS, DATA = "model.onnx", "model.onnx.data"
FILES = {WEIGHTS, DATA, GENERATION, CARD, CONFIG, digests.FILE, tokenizer.FILE, tokenizer.HF_FILE}
LIBRARY = "onnx"
PRECISIONS: dict[str, Literal["float32", "int8"]] = {"f32": "float32", "int8": "int8"}
# A file of protocol buffers ends at 2 GiB; the numbers of a larger model lie next to it.
LARGEST_FILE = 1 << 30


def refusal(config: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why the graph cannot hold this model; empty where it can."""
    multiple = onnx_graph.HEAD_WIDTHS[config.position]
    if config.head_width % multiple:
        return (
            f"model.head_dim is {config.head_width}; onnxruntime's attention takes, with position {config.position}, "
            f"multiples of {multiple}"
        )
    return ""


def export(
    model: GPT,
    tokenizer: Tokenizer,
    folder: Path,
    precision: str = "f32",
    card: str | None = None,
    sources: Collection[Path] = (),
) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    `card` and `sources` as in huggingface.export(). Raises UserError for heads of a width that the graph does not take,
    and for a folder that holds anything but such an export.
    """
    require_target(folder, FILES, is_export, sources)
    graph = onnx_graph.build(model.config, _arrays(model), PRECISIONS[precision])
    with placing.weights_of(folder, [DATA, WEIGHTS]) as temporary:
        size = sum(len(constant.raw_data) for constant in graph.graph.initializer)
        onnx.save_model(graph, temporary / WEIGHTS, save_as_external_data=size > LARGEST_FILE, location=DATA)
        write_settings(folder, _settings(model.config), tokenizer, model.config.block_size)
        if card is not None:
            durable.write_text(folder / CARD, card)
    return sorted(path for path in folder.iterdir() if path.name in FILES)


def _arrays(model: GPT) -> dict[str, Array]:
    """The parameters by their names, each once, float32."""
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in model.named_parameters()}


def _settings(config: ModelConfig) -> dict[str, Any]:
    """config.json: a published shape's, or of another one what a program needs besides the graph."""
    if published_settings.architecture(config) is not None:
        return published_settings.settings_of(config)
    return {"model_type": "gpt", "vocab_size": config.vocab_size, "max_position_embeddings": config.block_size}


def use(config: ModelConfig, tokenizer: Tokenizer, precision: str, prompt: str) -> str:
    """The card's words on how to use it."""
    stop = f"\n    if token == {tokenizer.end_of_text}:  # the end of a text\n        break"
    end = "" if tokenizer.end_of_text is None else stop
    positions = '\n        "position_ids": np.arange(len(ids) - len(unread), len(ids))[None],'
    python = f"""import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("{WEIGHTS}", providers=["CPUExecutionProvider"])
caches = [found for found in session.get_inputs() if found.name.startswith("past_key_values")]
cache = {{found.name: np.zeros((1, found.shape[1], 0, found.shape[3]), np.float32) for found in caches}}
random = np.random.default_rng()

ids = unread = tokenizer.encode({prompt!r}).ids
while len(ids) < {config.block_size}:  # its context
    inputs = {{
        "input_ids": np.array([unread]),
        "attention_mask": np.ones((1, len(ids)), np.int64),{positions if config.position == "learned" else ""}
    }}
    logits, *present = session.run(None, inputs | cache)
    cache = dict(zip(cache, present))
    likely = np.argsort(logits[0, -1])[-50:]  # top-k
    odds = np.exp((logits[0, -1, likely] - logits[0, -1, likely[-1]]) / 0.8)  # temperature
    token = int(random.choice(likely, p=odds / odds.sum()))
    unread = [token]
    ids = ids + unread{end}
print(tokenizer.decode(ids))"""
    return (
        f"`{WEIGHTS}` ({precision}) is for onnxruntime. In this folder, after `pip install onnxruntime tokenizers`:\n\n"
        f"{markdown.block(python, 'python')}\n\n{_notes(config, tokenizer, precision)}"
    )


def _notes(config: ModelConfig, tokenizer: Tokenizer, precision: str) -> str:
    lines = [
        "Inputs: `input_ids` (rows, new tokens), `attention_mask` (rows, all tokens), 1 for a token and 0 behind the "
        "end of a shorter row, and `past_key_values`, empty at first, then what came out as `present`.",
        f"Keep to {config.block_size:,} tokens in all: it was trained on no more.",
        "Its attention is onnxruntime's own (`com.microsoft`): other programs that read ONNX may not have it.",
    ]
    if precision == "int8":
        lines.append("Matrices are int8 in blocks of 32 (`MatMulNBits`); the table of tokens is float32.")
    if isinstance(tokenizer, CharTokenizer):
        lines.append("Each character is a token; those that it does not know are all the same token to it.")
    return "\n".join(f"- {line}" for line in lines)
