"""Structured pruning: whole heads and feed-forward rows go, and what is left is an ordinary, narrower model.

Importance is by Taylor expansion: what the loss would change if a part were zero (Molchanov et al. 2019, equation 8).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT, Block, weight_of
from nanogpt.training.update.gradients import gradient_of

KEEP = 0.75  # of the key/value groups and of the feed-forward rows
ROWS_TOGETHER = 32  # rows are kept in multiples of a quantised block
Batch = tuple[Tensor, Tensor]  # tokens and targets, (B, T) each


@dataclass(frozen=True)
class Importance:
    """For each layer: of its key/value groups (n_kv_head,), and of its feed-forward rows (ffn_dim,)."""

    groups: list[Tensor]
    rows: list[Tensor]


def pruned(model: GPT, batches: Iterable[Batch], keep: float = KEEP) -> GPT:
    """`model` with its most important key/value groups (each with its query heads) and feed-forward rows alone.

    The same number stays in every layer, so the result is a ModelConfig with fewer heads of the same width. GPT-2's
    published shape cannot hold fewer heads: there only rows go. Raises UserError where nothing can go.
    """
    config = narrower(model.config, keep)
    importance = measured(model, batches)
    small = GPT(config, seed=None)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for layer, block in enumerate(model.layers):
        groups = _most(importance.groups[layer], config.kv_heads)
        rows = _most(importance.rows[layer], config.ffn_width)
        for name, places in _kept(block, model.config, groups, rows).items():
            dimension = 1 if name in ("attention.output.weight", "feedforward.down.weight") else 0
            full = f"blocks.{layer}.{name}"
            weights[full] = weights[full].index_select(dimension, places)
    small.load_state_dict(weights)
    return small.eval()


def narrower(config: ModelConfig, keep: float = KEEP) -> ModelConfig:
    """The shape with about `keep` of the key/value groups and feed-forward rows, one at least of each."""
    heads_a_group = config.n_head // config.kv_heads
    groups = config.kv_heads if config.position == "learned" else max(1, round(keep * config.kv_heads))
    rows = max(1, int(keep * config.ffn_width))
    if rows > ROWS_TOGETHER:
        rows = round(rows / ROWS_TOGETHER) * ROWS_TOGETHER
        rows -= ROWS_TOGETHER * (rows >= config.ffn_width > ROWS_TOGETHER)
    if groups == config.kv_heads and rows == config.ffn_width:
        raise UserError(f"nothing can go: {groups} key/value heads and {rows} feed-forward rows stay")
    return config.model_copy(
        update={
            "n_head": groups * heads_a_group,
            "n_kv_head": groups,
            "head_dim": config.head_width,
            "ffn_dim": rows,
        }
    )


def measured(model: GPT, batches: Iterable[Batch]) -> Importance:
    """The squared change of the loss that zeroing each part would bring, to first order, summed over `batches`."""
    config, width = model.config, model.config.head_width
    heads_a_group = config.n_head // config.kv_heads
    groups = [torch.zeros(config.kv_heads) for _ in model.layers]
    rows = [torch.zeros(config.ffn_width) for _ in model.layers]
    for tokens, targets in batches:
        model.zero_grad(set_to_none=True)
        _, loss = model(tokens, targets)
        loss.backward()
        for layer, block in enumerate(model.layers):
            heads = _by_column(block.attention.output).view(config.kv_heads, heads_a_group * width).sum(1)
            groups[layer] += heads.cpu().square()
            rows[layer] += _by_column(block.feedforward.down).cpu().square()
    model.zero_grad(set_to_none=True)
    return Importance(groups, rows)


@torch.no_grad()
def _by_column(linear: torch.nn.Module) -> Tensor:
    """Weight times gradient of each input of a linear map, (in,): minus what the loss changes without that input.

    An input is a head's coordinate or a feed-forward row: without its column it has no effect at all.
    """
    weight = weight_of(linear)
    return (weight * gradient_of(weight)).sum(0)


def _most(importance: Tensor, count: int) -> Tensor:
    """The places of the `count` largest, in order."""
    return importance.argsort(descending=True)[:count].sort().values


def _kept(block: Block, config: ModelConfig, groups: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """By name of a tensor in the block: its rows, or columns, that stay."""
    width, heads_a_group = config.head_width, config.n_head // config.kv_heads
    of_heads = _spread(groups, heads_a_group * width)
    of_keys = _spread(groups, width)
    key_start, value_start = config.n_head * width, (config.n_head + config.kv_heads) * width
    qkv = torch.cat([of_heads, key_start + of_keys, value_start + of_keys])
    up = torch.cat([part * config.ffn_width + rows for part in range(block.feedforward.parts)])
    kept = {
        "attention.qkv.weight": qkv,
        "attention.output.weight": of_heads,
        "feedforward.up.weight": up,
        "feedforward.down.weight": rows,
    }
    if config.bias:
        kept |= {"attention.qkv.bias": qkv, "feedforward.up.bias": up}
    return kept


def _spread(places: Tensor, width: int) -> Tensor:
    """Places of things that are `width` numbers wide, as places of the numbers."""
    return (places[:, None] * width + torch.arange(width)).flatten()
