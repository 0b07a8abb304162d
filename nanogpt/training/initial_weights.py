"""A training that begins with weights that are there: training.init_from names where they are.

The source decides the shape. What may differ is dropout and the length of the context: a longer one is position
interpolation (Chen et al. 2023), where as many positions as were learned are spread over the new length.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from nanogpt.config import Config, ModelConfig
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import checkpoint
from nanogpt.weights.folders import source_at
from nanogpt.weights.source import Source
from nanogpt.weights.trained_folder import POSITIONS

UNDECIDED = {"dropout", "block_size", "position_scale", "zero_init"}  # by a source; the last is for scratch
EFFECTIVE = {"n_kv_head": "kv_heads", "head_dim": "head_width", "ffn_dim": "ffn_width"}  # null stands for a number


def config_with_shape_of(config: Config, path: Path | str) -> Config:
    """`config` with the shape of the model at `path`; dropout and the length of the context are `config`'s, where set.

    Raises UserError naming each field in which what a person wrote differs from what is there.
    """
    theirs, asked = _source(path).config, config.model
    written = asked.model_fields_set
    differing = [
        f"model.{key} is {there} there, {here} here"
        for key in ModelConfig.model_fields
        if key in written - UNDECIDED and getattr(asked, key) is not None
        if (there := _effective(theirs, key)) != (here := _effective(asked, key))
    ]
    if differing:
        raise UserError(
            f"training.init_from: {path} has another architecture: {', '.join(differing)}; "
            "what the configuration leaves out is as it is there"
        )
    block_size = asked.block_size if "block_size" in written else theirs.block_size
    scale = asked.position_scale if "position_scale" in written else _stretched(theirs, block_size)
    chosen = {"dropout": asked.dropout, "block_size": block_size, "position_scale": scale}
    return config.with_changes({"model": theirs.model_dump() | chosen})


def check_vocabulary(path: Path | str, tokenizer: Tokenizer) -> None:
    """Raises UserError when the ids of `tokenizer`, the data's, mean something else to the model at `path`."""
    source = _source(path)
    theirs = source.tokenizer()
    if theirs is not None and theirs.digest != tokenizer.digest:
        raise UserError(
            f"training.init_from: {source.path} has another tokenizer ({theirs.vocab_size:,} tokens, "
            f"{theirs.digest[:12]}) than the data ({tokenizer.vocab_size:,} tokens, {tokenizer.digest[:12]}); "
            f"tokenise the text with the model's: nanogpt prepare TEXT --tokenizer-of {source.path} --out DIR"
        )
    if tokenizer.vocab_size > source.vocab_size:
        raise UserError(
            f"training.init_from: {source.path} has {source.vocab_size:,} tokens, the data {tokenizer.vocab_size:,}"
        )


def put_initial_weights(model: GPT, config: Config) -> str:
    """Fill `model` from training.init_from; returns what was done, for people.

    Raises UserError when a weight is missing or of another shape, CorruptFileError when a checkpoint is not what was
    written.
    """
    source = _source(str(config.training.init_from))
    weights, learned, block_size = source.weights(), source.config.block_size, model.config.block_size
    if model.position_embedding is not None:
        weights[POSITIONS] = resampled(weights[POSITIONS], block_size)
    checkpoint.put_weights(model, weights, str(source.path))
    context = "" if block_size == learned else f"; context {learned} -> {block_size}"
    stretch = model.config.position_scale / source.config.position_scale
    scaled = "" if stretch == 1 else f", positions divided by {stretch:g} (model.position_scale)"
    return f"weights of {source.path} ({source.kind}){context}{scaled}"


def resampled(table: Tensor, positions: int) -> Tensor:
    """Learned positions (old, n_embd) for a context of another length: (positions, n_embd).

    Longer: position p becomes the point p * old / new between the two nearest learned ones, the last of them held.
    Shorter: the first ones, unchanged.
    """
    old = table.size(0)
    if positions <= old:
        return table[:positions].clone()
    points = torch.arange(positions, dtype=torch.float64) * old / positions
    below = points.floor().long()
    above = (below + 1).clamp(max=old - 1)
    return torch.lerp(table[below], table[above], (points - below).to(table.dtype)[:, None])


def _source(path: Path | str) -> Source:
    try:
        return source_at(path)
    except UserError as error:
        raise UserError(f"training.init_from: {error}") from None


def _stretched(theirs: ModelConfig, block_size: int) -> float:
    """position_scale of a context of `block_size`: no position turns further than the longest that was learned."""
    if theirs.position == "learned":
        return 1.0
    return theirs.position_scale * max(1.0, block_size / theirs.block_size)


def _effective(config: ModelConfig, key: str) -> object:
    return getattr(config, EFFECTIVE.get(key, key))
