"""GPT: a decoder-only transformer whose options compose. Two presets matter: GPT-2's shape and Qwen3's.

Sources: Radford et al. 2019 (GPT-2), Karpathy's nanoGPT (initialisation, FLOP estimate), the Qwen3 report (2025).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpt.config import ModelConfig
from nanogpt.kernels import library as kernels
from nanogpt.kernels.functions import FusedBlock, FusedDropout, FusedNorm
from nanogpt.kernels.operations import Dropout
from nanogpt.kernels.whole_block import BlockShape
from nanogpt.model import fusing
from nanogpt.model.attention import Attention, Documents, KVCache, Scope
from nanogpt.model.cross_entropy import Groups, summed_cross_entropy
from nanogpt.model.feedforward import FeedForward
from nanogpt.model.limits import LOGITS_AT_ONCE, require_memory
from nanogpt.model.norm import make_norm
from nanogpt.model.positional import Places, Rotary, Rotation
from nanogpt.model.recomputing import recomputed
from nanogpt.model.unset import unset_embedding, unset_linear


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)); the pre-norm order of GPT-2."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        norm = partial(make_norm, config.norm, config.n_embd, config.norm_eps, config.bias)
        self.attention_norm: nn.Module = norm()
        self.attention = Attention(config, layer)
        self.feedforward_norm: nn.Module = norm()
        self.feedforward = FeedForward(config)
        self.fused: BlockShape | None = None  # what nanogpt.kernels computes in one function, where that is asked for

    def forward(self, x: Tensor, rotation: Rotation | None, scope: Scope) -> Tensor:
        is_plain = self.fused is not None and scope is None and self.attention.watch is None
        if is_plain and fusing.applies(x, *self.parts, self.attention.output, self.feedforward.down):
            cos, sin = rotation or (None, None)
            dropout = Dropout.drawn(self.attention.dropout if self.training else 0.0)
            parameters = fusing.parameters(*self.parts)
            fused: Tensor = FusedBlock.apply(  # type: ignore[no-untyped-call]
                x, cos, sin, self.fused, dropout, *parameters
            )
            return fused
        x = x + self.attention(self.attention_norm(x), rotation, scope)
        x = x + self.feedforward(self.feedforward_norm(x))
        return x

    @property
    def parts(self) -> tuple[nn.Module, Attention, nn.Module, FeedForward]:
        """In the order in which they compute."""
        return self.attention_norm, self.attention, self.feedforward_norm, self.feedforward


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight of a linear map or an embedding, which torch's types call a tensor."""
    return cast(nn.Parameter, module.weight)


@dataclass
class Trace:
    """What a forward pass computes on its way, layer by layer, as GPT.traced() fills it.

    attention: of each layer, what was kept of its weights (B, n_head, T, T). residual, where it was asked for: the
    stream (B, T, n_embd) as it enters the first block, then as it leaves each.
    """

    attention: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)


class GPT(nn.Module):
    """A language model over `config.vocab_size` tokens.

    `seed` alone decides the initial weights, torch's global generator is neither read nor advanced; with None they
    stay unset, for weights that are read from a file next.
    Raises ValueError when `config.vocab_size` is not known yet, UserError when no such model fits into the memory.
    """

    def __init__(self, config: ModelConfig, seed: int | None = 1337):
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size is not known yet: it comes from the tokenizer")
        require_memory(config)
        self.config = config
        self.gradient_checkpointing = False  # for gradients: blocks are computed again in the backward pass
        self.has_kernels = False  # nanogpt.kernels computes what it can of training: use_kernels()
        self.document_start: int | None = None  # the token at which a document begins that sees none before it
        self.token_embedding = unset_embedding(config.vocab_size, config.n_embd)
        learned = config.position == "learned"
        self.position_embedding = unset_embedding(config.block_size, config.n_embd) if learned else None
        theta, scale = config.rope_theta, config.position_scale
        self.rotary = None if learned else Rotary(config.head_width, config.block_size, theta, scale)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.final_norm: nn.Module = make_norm(config.norm, config.n_embd, config.norm_eps, config.bias)
        self.head = unset_linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.head.weight = self.token_embedding.weight
        if seed is not None:
            self.initialise(torch.Generator().manual_seed(seed))

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        return_attention: bool = False,
    ) -> tuple[Tensor | None, Tensor | None]:
        """tokens (B, T) int64 -> (logits (B, T, vocab_size), None); with targets (B, T), (None, loss); with
        return_attention (no targets, no cache), (logits, weights (n_layer, B, n_head, T, T)).

        The loss is the mean cross entropy in nats over targets other than -1, float32. Logits are not returned with
        it, so that they never have to exist as a whole. With a cache the T tokens follow those that it holds.
        Raises ValueError when the sequence is longer than block_size.
        """
        if return_attention:
            with self.traced() as trace:
                return self.head(self.hidden(tokens)), torch.stack(trace.attention)
        x = self.hidden(tokens, cache)
        if targets is None:
            return self.head(x), None
        total, count = self._loss_sum(x, targets)
        return None, total / count

    def loss_sum(self, tokens: Tensor, targets: Tensor, by: Groups | None = None) -> tuple[Tensor, Tensor]:
        """Summed cross entropy in nats (float32) and the number of targets other than -1.

        With groups of the rows (B,), the sum is one for each group: (groups,).
        """
        return self._loss_sum(self.hidden(tokens), targets, by)

    def hidden(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads: tokens (B, T) -> (B, T, n_embd), after the final norm."""
        T = tokens.size(1)
        end = T if cache is None else cache.length + T
        if end > self.config.block_size:
            raise ValueError(f"sequence of {end} tokens is longer than block_size {self.config.block_size}")
        places: Places = slice(0, T)
        scope: Scope = cache
        if cache is not None:
            places = cache.reserve(T)
        elif self.document_start is not None:
            scope = Documents.beginning_with(self.document_start, tokens)
            places = scope.places
        x = self.embed(tokens, places)
        rotation = self.rotary(places) if self.rotary is not None else None
        for block in self.layers:
            if self.gradient_checkpointing:
                again = partial(block, rotation=rotation, scope=scope)
                x = recomputed(again, x, block, draws=self.training and block.feedforward.dropout > 0)
            else:
                x = block(x, rotation, scope)
        if cache is not None:
            cache.advance(T)
        norm = self.final_norm
        if self.has_kernels and isinstance(norm, fusing.Norm) and fusing.applies(x, norm):
            return fusing.normed(norm, x)
        normed: Tensor = norm(x)
        return normed

    def use_kernels(self) -> None:
        """Compute training on a CPU by nanogpt.kernels from now on, where it has what the model is made of: other bits.

        Raises Unavailable where there are none on this machine.
        """
        kernels.load()
        self.has_kernels = True
        for block in self.layers:
            block.fused = fusing.shape_of(*block.parts)

    @contextmanager
    def traced(self, keep: Callable[[Tensor], Tensor] = Tensor.detach, residual: bool = False) -> Iterator[Trace]:
        """Passes without a cache fill the Trace; `keep` says what is kept of each layer's attention weights.

        They compute what any other pass does, except that the weights exist as a whole: T² numbers a head.
        """
        trace = Trace()

        def entered(_block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            trace.residual.append(inputs[0].detach())

        def left(_block: nn.Module, _inputs: tuple[Tensor, ...], x: Tensor) -> None:
            trace.residual.append(x.detach())

        layers, hooks = self.layers, []
        if residual:
            hooks = [layers[0].register_forward_pre_hook(entered)]
            hooks += [layer.register_forward_hook(left) for layer in layers]
        for layer in layers:
            layer.attention.watch = lambda weights: trace.attention.append(keep(weights))
        try:
            yield trace
        finally:
            for hook in hooks:
                hook.remove()
            for layer in layers:
                layer.attention.watch = None

    def embed(self, tokens: Tensor, places: Places) -> Tensor:
        """tokens (B, T) at `places` -> (B, T, n_embd), with learned positions where the model has them."""
        x = self.token_embedding(tokens)
        if self.config.embedding_norm and self.has_kernels and fusing.applies(x):
            x = FusedNorm.apply(x, None, None, self.config.norm_eps, False, x.dtype)  # type: ignore[no-untyped-call]
        elif self.config.embedding_norm:
            x = F.rms_norm(x, x.shape[-1:], eps=self.config.norm_eps)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[places]
        share = self.config.dropout if self.training else 0.0
        return self.dropped(x, share) if share else x

    def dropped(self, x: Tensor, share: float) -> Tensor:
        """x (B, T, n_embd) with `share` of its numbers dropped."""
        if not self.has_kernels or not fusing.applies(x):
            return F.dropout(x, share)
        y: Tensor = FusedDropout.apply(x, Dropout.drawn(share))  # type: ignore[no-untyped-call]
        return y

    def _loss_sum(self, x: Tensor, targets: Tensor, by: Groups | None = None) -> tuple[Tensor, Tensor]:
        if by is not None:
            by = by.repeated(targets.size(1))
        x, targets = x.reshape(-1, x.size(-1)), targets.reshape(-1)
        count = (targets != -1).sum()
        rows = max(1, LOGITS_AT_ONCE // self.head.out_features)
        if x.size(0) <= rows:
            return self._cross_entropy(x, targets, by), count
        # The logits of a chunk are computed again in the backward pass instead of being kept.
        groups = repeat(None) if by is None else by.split(rows)
        chunks = zip(x.split(rows), targets.split(rows), groups, strict=False)
        losses = [
            recomputed(partial(self._cross_entropy, targets=wanted, by=group), chunk, self.head, draws=False)
            for chunk, wanted, group in chunks
        ]
        return torch.stack(losses).sum(dim=0), count

    def _cross_entropy(self, x: Tensor, targets: Tensor, by: Groups | None) -> Tensor:
        return summed_cross_entropy(self.head(x), targets, by, self.has_kernels)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from `generator`.

        With zero_init, output projections and untied head start at zero, so that each block starts as the identity,
        and the other matrices are uniform in ±sqrt(3 / n_embd). Without, GPT-2's scheme: normal with deviation 0.02,
        residual projections divided by sqrt(2 n_layer). Norms start at one, biases at zero.
        """
        config = self.config
        for name, parameter in self.named_parameters():  # a tied head is the token embedding and comes up once
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            residual = name.endswith(("output.weight", "down.weight"))
            if name == "token_embedding.weight":
                parameter.normal_(
                    0.0,
                    1.0 if config.embedding_norm and not config.tie_weights else 0.02,
                    generator=generator,
                )
            elif config.zero_init and (residual or name == "head.weight"):
                parameter.zero_()
            elif config.zero_init and name.startswith("blocks"):
                bound = math.sqrt(3 / config.n_embd)
                parameter.uniform_(-bound, bound, generator=generator)
            else:
                parameter.normal_(0.0, 0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02, generator=generator)

    def choose_attention(self, path: str) -> None:
        """Attend by torch's kernel ("sdpa", as from the start) or by written-out products ("products")."""
        for block in self.layers:
            block.attention.by_products = path == "products"

    @property
    def layers(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.blocks))

    def matrices(self) -> list[nn.Parameter]:
        """The hidden matrices, (out, in) each: what an optimizer for matrices such as Muon updates."""
        return [parameter for parameter in self.blocks.parameters() if parameter.dim() == 2]

    def row_blocks(self) -> dict[nn.Parameter, tuple[int, ...]]:
        """For each of matrices(): the numbers of rows of the matrices that are stacked in it.

        The query, key and value projections are one parameter, and so are SwiGLU's gate and up; as linear maps they
        are separate, so an optimizer for matrices treats `parameter.split(row_blocks[parameter])` one by one.
        """
        blocks: dict[nn.Parameter, tuple[int, ...]] = {matrix: (matrix.size(0),) for matrix in self.matrices()}
        for block in self.layers:
            feedforward = block.feedforward
            blocks[weight_of(block.attention.qkv)] = block.attention.row_blocks
            blocks[weight_of(feedforward.up)] = (feedforward.hidden,) * feedforward.parts
        return blocks

    def embedding_parameters(self) -> list[nn.Parameter]:
        """The tables that are looked up: tokens (also the head, when tied) and learned positions."""
        tables = [self.token_embedding, self.position_embedding]
        return [weight_of(table) for table in tables if table is not None]

    def num_parameters(self, non_embedding: bool = False) -> int:
        """All parameters, a tied head counted once; without the tables of embedding_parameters() if `non_embedding`."""
        total = sum(parameter.numel() for parameter in self.parameters())
        return total - sum(p.numel() for p in self.embedding_parameters()) if non_embedding else total

    def flops_per_token(self) -> int:
        """Floating point operations of forward and backward per token of a full window (PaLM, appendix B).

        6 per parameter that takes part in a product (looked-up tables do not; a tied table does, as the head): 2 each
        forward, for the gradient of what goes in, and for its own, which a frozen one has not. And
        12 n_layer n_head head_dim block_size for the attention scores and their use.
        """
        config, looked_up = self.config, {id(table) for table in self.embedding_parameters()}
        in_products = [parameter for parameter in self.parameters() if id(parameter) not in looked_up]
        if config.tie_weights:
            in_products.append(weight_of(self.token_embedding))
        products = sum(p.numel() * (6 if p.requires_grad else 4) for p in in_products)
        return products + 12 * config.n_layer * config.n_head * config.head_width * config.block_size
