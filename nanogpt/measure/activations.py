"""What autograd keeps of each layer for the backward pass, as nanogpt/model saves it. Arithmetic, no torch.

A change of what a layer saves belongs here too: tests/nanogpt/test_memory.py compares them byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanogpt.config import ModelConfig
from nanogpt.machine import has_bfloat16_instructions
from nanogpt.measure.sizes import FLOAT32
from nanogpt.model.limits import SHORT_WINDOW


@dataclass(frozen=True)
class Kept:
    """Bytes that one token leaves behind for the backward pass, by layer of `model`.

    Residuals and norms are float32; `product` is the size of what a matrix product gives.
    """

    model: ModelConfig
    device: str
    product: int  # bytes
    rank: int = 0  # of adapters
    fused: bool = False  # whether nanogpt.kernels computes the blocks: nanogpt.kernels.functions.FusedBlock

    @property
    def embedding(self) -> int:
        """The weightless norm's input and the root of its mean square; dropout's mask."""
        normalised = FLOAT32 * (self.model.n_embd + 1) if self.model.embedding_norm else 0
        return normalised + self._dropped(FLOAT32)

    @property
    def attention(self) -> int:
        """Of one block, its norm included."""
        model = self.model
        queries, keys = model.n_head * model.head_width, model.kv_heads * model.head_width
        kept = self._norm + self.product * model.n_embd  # what the norm, and the qkv product, have read
        if self.fused:  # the qkv product, what attention gives, and a logarithm a head
            return kept + self.product * (2 * queries + 2 * keys) + FLOAT32 * model.n_head
        if model.qk_norm and not self._is_short:
            kept += FLOAT32 * (queries + keys + model.n_head + model.kv_heads)
        kept += self._short_attention(queries, keys) if self._is_short else self._flash_attention(queries, keys)
        kept += 4 * self.product * self.rank  # what each adapter has between its two matrices
        return kept + self._dropped(self.product)

    @property
    def rotary_tables(self) -> int:
        """Bytes of one block, however many sequences: short attention widens the tables to all heads."""
        model = self.model
        if self.fused or not self._is_short or model.position != "rope":
            return 0
        return 2 * FLOAT32 * model.block_size * (model.n_head + model.kv_heads) * model.head_width

    @property
    def feedforward(self) -> int:
        """Of one block, its norm included: what up has read, has given, and what down has read."""
        wide = {"swiglu": 3 if self.fused else 4, "gelu": 2, "gelu_erf": 2, "relu2": 2}[self.model.activation]
        adapters = 3 if self.model.activation == "swiglu" else 2
        numbers = self.model.n_embd + wide * self.model.ffn_width + adapters * self.rank
        return self._norm + self.product * numbers + self._dropped(self.product)

    @property
    def final_norm(self) -> int:
        """What the norm and the head have read; a frozen head needs nothing of it."""
        return self._norm + (0 if self.rank else self.product * self.model.n_embd)

    @property
    def _norm(self) -> int:
        statistics = 2 if self.model.norm == "layernorm" else 1
        return FLOAT32 * (self.model.n_embd + statistics)

    def _dropped(self, size: int) -> int:
        """Dropout's mask: of the type of what is dropped on a CPU, of a byte elsewhere; the kernels keep none."""
        if self.fused or not self.model.dropout:
            return 0
        return self.model.n_embd * (size if self.device == "cpu" else 1)

    @property
    def _is_short(self) -> bool:
        """Whether nanogpt.model.short_attention is at work (float16 has no such kernel)."""
        is_short = self.model.block_size <= SHORT_WINDOW
        return is_short and self.device == "cpu" and self.product < FLOAT32 and has_bfloat16_instructions()

    @property
    def _attends_in_float32(self) -> bool:
        """Whether the kernel gets copies in float32: a CPU would emulate bfloat16 (nanogpt.model.attention)."""
        return self.device == "cpu" and self.product < FLOAT32 and not has_bfloat16_instructions()

    def _short_attention(self, queries: int, keys: int) -> int:
        """The qkv product as it came and as it is multiplied, probabilities, roots of mean squares, output."""
        model = self.model
        probabilities = self.product * model.n_head * model.block_size
        roots = FLOAT32 * (model.n_head + model.kv_heads) if model.qk_norm else 0
        return 2 * self.product * (queries + 2 * keys) + probabilities + roots + self.product * queries

    def _flash_attention(self, queries: int, keys: int) -> int:
        """Queries, keys, values and output as the kernel saw them, and one logarithm a head."""
        model, size = self.model, self.product
        turned = model.qk_norm or model.position == "rope"  # else queries and keys are views of the qkv product
        shared = model.n_head != model.kv_heads
        if self._attends_in_float32:
            return FLOAT32 * (model.n_head + 2 * queries + 2 * (queries if shared else keys)) + size * queries
        kept = FLOAT32 * model.n_head + size * queries
        if turned:
            kept += size * queries
        if turned or shared:
            kept += size * (queries if shared else keys)
        if shared:
            kept += size * queries
        if not (turned and shared):
            kept += size * (queries + 2 * keys)  # the whole product stays for what is a view of it
        return kept
