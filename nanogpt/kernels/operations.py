"""The kernels on tensors: shapes, memory, types. No gradient is recorded here; nanogpt.kernels.functions does that.

"product type": float32 or bfloat16, what matrix products read and give; the rest is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanogpt.kernels.library import PARTS, load, pointer

ACTIVATIONS = ("gelu", "gelu_erf", "relu2", "swiglu")  # in the order of kernels.c


def is_half(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def _in_place_of(delta: Tensor) -> Tensor:
    """Memory for the sum of float32 and delta: memory that is new would come through the cache first."""
    return torch.empty(delta.shape) if is_half(delta) else delta


def add(x: Tensor, delta: Tensor, bias: Tensor | None) -> Tensor:
    """x (rows, width) float32 plus delta of the product type plus bias (width) float32 -> float32, in delta's place
    where it fits."""
    out, (rows, width) = _in_place_of(delta), x.shape
    load().add(pointer(x), pointer(delta), pointer(bias), pointer(out), rows, width, is_half(delta))
    return out


@dataclass(frozen=True)
class Dropout:
    """The share of what attention, and what the feed-forward, adds to the stream that is dropped, by seeds of their
    own: 64 bits each."""

    share: float
    seeds: tuple[int, int]

    @classmethod
    def drawn(cls, share: float) -> Dropout | None:
        """With seeds from torch's generator of the CPU; None where nothing is dropped."""
        if not share:
            return None
        attention, feedforward = torch.randint(2**63 - 1, (2,)).tolist()
        return cls(share, (attention, feedforward))


def drop(x: Tensor, bias: Tensor | None, dropout: Dropout, part: int) -> Tensor:
    """x (rows, width) of the product type plus bias (width) float32, with dropout of its part: 0 is attention, 1 the
    feed-forward. Its gradient is that of x dropped in the same way."""
    (rows, width), y = x.shape, torch.empty_like(x)
    load().drop(pointer(x), pointer(bias), pointer(y), rows, width, dropout.seeds[part], dropout.share, is_half(x))
    return y


@dataclass
class Normed:
    """x (rows, width): what was normalised; y: of the product type. mean, inverse (rows); mean of LayerNorm alone."""

    x: Tensor
    y: Tensor
    mean: Tensor | None
    inverse: Tensor


def norm(
    x: Tensor,
    delta: Tensor | None,
    delta_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centred: bool,
    product: torch.dtype,
) -> Normed:
    """LayerNorm (`centred`) or RMSNorm of x (rows, width), or of x + delta + delta_bias, in delta's place where that
    fits."""
    rows, width = x.shape
    total = x if delta is None else _in_place_of(delta)
    y = torch.empty(rows, width, dtype=product)
    inverse = torch.empty(rows)
    mean = torch.empty(rows) if centred else None
    load().norm_forward(
        pointer(x), pointer(delta), pointer(delta_bias), pointer(total), pointer(weight), pointer(bias), eps,
        pointer(y), pointer(mean), pointer(inverse), rows, width, product == torch.bfloat16,
    )  # fmt: skip
    return Normed(total, y, mean, inverse)


def norm_back(
    gradient: Tensor,
    normed: Normed,
    weight: Tensor | None,
    has_bias: bool,
    grad_sum: Tensor | None = None,
    also_half: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """From the gradient of y: that of x plus grad_sum, the same in the product type, those of weight and bias."""
    rows, width = gradient.shape
    grad_x = torch.empty(rows, width)
    half = torch.empty(rows, width, dtype=torch.bfloat16) if also_half else None
    grad_weight, grad_bias = torch.empty(width), torch.empty(width) if has_bias else None
    scratch = torch.empty(2 * PARTS * width)
    load().norm_backward(
        pointer(gradient), pointer(normed.x), pointer(normed.mean), pointer(normed.inverse), pointer(weight),
        pointer(grad_sum), pointer(grad_x), pointer(half), pointer(grad_weight), pointer(grad_bias), pointer(scratch),
        rows, width, is_half(gradient),
    )  # fmt: skip
    return grad_x, grad_x if half is None else half, grad_weight, grad_bias


def column_sums(x: Tensor) -> Tensor:
    """x (rows, width) of the product type -> (width) float32."""
    rows, width = x.shape
    out, scratch = torch.empty(width), torch.empty(PARTS * width)
    load().column_sums(pointer(x), pointer(out), pointer(scratch), rows, width, is_half(x))
    return out


def activate(hidden: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """hidden (rows, width), of "swiglu" (rows, 2 width): gate and up, each plus its bias -> (rows, width).

    The slopes by hidden, which activate_back() needs, take its place.
    """
    rows, wide = hidden.shape
    width = wide // 2 if activation == "swiglu" else wide
    y = hidden.new_empty(rows, width)
    kind = ACTIVATIONS.index(activation)
    load().activation_forward(pointer(hidden), pointer(bias), pointer(y), rows, width, kind, is_half(hidden))
    return y


def activate_back(gradient: Tensor, slopes: Tensor, has_bias: bool, activation: str) -> tuple[Tensor, Tensor | None]:
    """The gradients of hidden, like slopes, and of bias, from that of activate()'s result (rows, width), whose place
    the first takes where it fits."""
    (rows, width), wide = gradient.shape, slopes.size(1)
    grad_hidden = gradient if wide == width else torch.empty_like(slopes)
    grad_bias, scratch = (torch.empty(wide), torch.empty(PARTS * wide)) if has_bias else (None, None)
    kind = ACTIVATIONS.index(activation)
    load().activation_backward(
        pointer(gradient), pointer(slopes), pointer(grad_hidden), pointer(grad_bias), pointer(scratch), rows, width,
        kind, is_half(slopes),
    )  # fmt: skip
    return grad_hidden, grad_bias


@dataclass(frozen=True)
class Heads:
    """B windows of T positions, each with n_head queries and n_kv_head keys and values of `width` numbers.

    bias ((n_head + 2 n_kv_head) width): what queries, keys and values lack as they come. cos, sin (T, 1, width): rotary
    tables. q_weight, k_weight (width): of the RMSNorm of queries and keys, with eps.
    """

    B: int
    T: int
    n_head: int
    n_kv_head: int
    width: int
    bias: Tensor | None
    q_weight: Tensor | None
    k_weight: Tensor | None
    eps: float
    cos: Tensor | None
    sin: Tensor | None

    def scratch(self) -> tuple[Tensor, int]:
        """Memory for so many threads, and no more may use it."""
        threads = torch.get_num_threads()
        return torch.empty(threads * load().attention_scratch(self.T, self.width)), threads


def attend(qkv: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
    """qkv (B T, (n_head + 2 n_kv_head) width) -> (B T, n_head width), and the logarithms (B, n_head, T) that
    attend_back() needs."""
    y = qkv.new_empty(qkv.size(0), heads.n_head * heads.width)
    logs, (scratch, threads) = torch.empty(heads.B, heads.n_head, heads.T), heads.scratch()
    load().attention_forward(
        pointer(qkv), pointer(heads.bias), pointer(heads.q_weight), pointer(heads.k_weight), heads.eps,
        pointer(heads.cos), pointer(heads.sin), pointer(y), pointer(logs), pointer(scratch), threads,
        heads.B, heads.T, heads.n_head, heads.n_kv_head, heads.width, is_half(qkv),
    )  # fmt: skip
    return y, logs


def attend_back(gradient: Tensor, qkv: Tensor, logs: Tensor, heads: Heads) -> tuple[Tensor, Tensor | None]:
    """The gradients of qkv, and of q_weight and k_weight together: (2, width)."""
    grad_qkv, (scratch, threads) = torch.empty_like(qkv), heads.scratch()
    weights = None if heads.q_weight is None else torch.empty(2, heads.width)
    parts = torch.empty(heads.B * heads.n_kv_head * 2 * heads.width)
    load().attention_backward(
        pointer(gradient), pointer(qkv), pointer(heads.bias), pointer(heads.q_weight), pointer(heads.k_weight),
        heads.eps, pointer(heads.cos), pointer(heads.sin), pointer(logs), pointer(grad_qkv), pointer(weights),
        pointer(parts), pointer(scratch), threads,
        heads.B, heads.T, heads.n_head, heads.n_kv_head, heads.width, is_half(qkv),
    )  # fmt: skip
    return grad_qkv, weights


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (rows, vocab_size) of the product type become the gradient of the losses that are returned: (rows)
    float32, in nats; zeros where a target (rows) int64 is negative. Raises IndexError for one beyond the vocabulary."""
    rows, width = logits.shape
    targets = targets.contiguous()
    if rows and targets.max() >= width:
        raise IndexError(f"target {int(targets.max())} is beyond the vocabulary of {width}")
    losses = torch.empty(rows)
    load().cross_entropy(pointer(logits), pointer(targets), pointer(losses), rows, width, is_half(logits))
    return losses
