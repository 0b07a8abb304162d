"""How much memory a training takes, known before anything is allocated. Arithmetic, no torch.

What autograd keeps for the backward pass is in activations.py; what else is held differs from moment to moment of a
step, and the fullest moment is the peak. tests/nanogpt/test_memory.py holds every part against what torch really
saves and allocates, bench/memory.py the whole against what processes take.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from nanogpt.config import Config, ModelConfig
from nanogpt.kernels.conditions import kernels_compute_blocks, kernels_wanted
from nanogpt.machine import gains_by_bfloat16
from nanogpt.measure.activations import Kept
from nanogpt.measure.sizes import FLOAT32, Parameters, matrix_shapes, parameters, vocabulary
from nanogpt.model.limits import LOGITS_AT_ONCE, TOKENS_AT_ONCE
from nanogpt.native.c_source import find_compiler
from nanogpt.native.unavailable import Unavailable
from nanogpt.units import GIB, MIB

PROCESS_BYTES = int(0.35 * GIB)  # of Python with torch, before the first tensor (measured 0.31 to 0.34)
LIBRARIES, ALLOCATOR = "libraries", "allocator"  # parts that are no tensors
OF_LIBRARIES = {"cpu": 18 * MIB, "cuda": 32 * MIB, "mps": 18 * MIB}  # kernels, scratch; CUDA: cuBLAS's on Hopper
IN_FLOAT32_ALONE = 8 * MIB  # of a CPU's libraries: oneDNN, which multiplies bfloat16, has nothing to do
IN_PASSES = ("loss", "backward, last block", "backward, first block")  # the moments of forward and backward pass
HEAP_HOLES = 0.2  # of glibc's heap, fitted to processes after many steps (docs/memory.md): see _unusable()
MAPPED_APART = GIB  # bytes; larger blocks are no part of glibc's heap (nanogpt.allocator)


@dataclass(frozen=True)
class Moment:
    """What is held at once at one point of a step: bytes by part, none of them zero."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Memory:
    """The moments of a training, the fullest of which is its peak."""

    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def passes(self) -> Moment:
        """The fullest moment of forward and backward pass: usually the peak, and the one with activations."""
        return max((moment for moment in self.moments if moment.name in IN_PASSES), key=lambda moment: moment.total)

    def moment(self, name: str) -> Moment:
        return next(moment for moment in self.moments if moment.name == name)

    @property
    def total(self) -> int:
        """Bytes at the peak, above what a process with torch takes anyway."""
        return self.peak.total


def predict(
    config: Config,
    micro_batch: int | None = None,
    precision: str = "float32",
    device: str = "cpu",
    gradient_checkpointing: bool | None = None,
    newton_schulz: str | None = None,
) -> Memory:
    """Memory of training `config`; what is not given is the configuration's.

    `micro_batch`: windows in one forward and backward pass, sequences unless device.longest_window makes them shorter;
    the step's whole batch stays. `precision`: of the products, "float32", "bfloat16" or "float16". `newton_schulz`: of
    Muon's products, by default the same; likely_precision() has what this machine takes. Raises ValueError while the
    vocabulary is not known.
    """
    if gradient_checkpointing is not None:
        config = config.with_changes({"device.gradient_checkpointing": gradient_checkpointing})
    counts, config = parameters(config.model), config.in_windows()
    batch = config.training.sequences_per_step
    rows = min(micro_batch or config.training.batch_size, batch)
    return _Step(config, counts, rows, -(-batch // rows), device, precision, newton_schulz or precision).memory()


def likely_precision(device: str, mixed_precision: bool | str = "auto") -> str:
    """The type of the products here, as nanogpt.training.numerics settles it for CPUs and recent GPUs; of "auto" also
    that of Muon's orthogonalisation."""
    if mixed_precision == "auto":
        gains = device == "cuda" or (device == "cpu" and gains_by_bfloat16())
        return "bfloat16" if gains else "float32"
    return "bfloat16" if mixed_precision is True else mixed_precision or "float32"


def _has_kernels() -> bool:
    """Whether nanogpt.kernels can be built here, as far as is known without building: they share threads with torch on
    Linux alone."""
    try:
        return sys.platform == "linux" and bool(find_compiler())
    except Unavailable:
        return False


# ---- what a step holds, moment by moment


@dataclass(frozen=True)
class _Step:
    config: Config
    counts: Parameters
    rows: int  # sequences in one forward and backward pass
    passes: int  # of them in a step
    device: str
    precision: str
    newton_schulz: str

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @cached_property
    def adapters(self) -> int:
        """Numbers in the low-rank adapters; they alone are trained then, by AdamW."""
        rank = self.config.training.lora_rank
        return self.model.n_layer * rank * sum(rows + columns for rows, columns in matrix_shapes(self.model))

    @property
    def trained(self) -> int:
        return self.adapters or self.counts.total

    @property
    def by_muon(self) -> int:
        return self.counts.matrices if self.config.training.optimizer == "muon" and not self.adapters else 0

    @property
    def kept(self) -> Kept:
        return Kept(self.model, self.device, self.product, self.config.training.lora_rank, self.fused)

    @cached_property
    def fused(self) -> bool:
        """Whether nanogpt.kernels computes whole blocks, where this machine has a compiler for them."""
        can_be = kernels_compute_blocks(self.model.head_width)
        is_plain = not self.adapters and self.config.data.cross_documents
        is_wanted = kernels_wanted(self.config.device, self.device, self.precision)
        return can_be and is_plain and is_wanted and _has_kernels()

    @property
    def product(self) -> int:
        return FLOAT32 if self.precision == "float32" else 2

    @property
    def tokens(self) -> int:
        return self.rows * self.model.block_size

    def memory(self) -> Memory:
        return Memory((self.loss(), self.last_block(), self.first_block(), self.update(), self.evaluation()))

    def loss(self) -> Moment:
        """The backward pass begins: every layer's activations, and the logits."""
        copies = self._weight_copies(self.counts.matrices + self._head_table)
        logits = self._logits(self.tokens) * self._of_a_logit
        held = {"weight copies": copies, "logits": logits}
        return self._moment(IN_PASSES[0], self._gradients(0), self._kept(), held)

    def last_block(self) -> Moment:
        """The backward pass has left the head: its gradient is there, the logits are not."""
        held = {"weight copies": self._weight_copies(self.counts.matrices), **self._in_a_block()}
        return self._moment(IN_PASSES[1], self._gradients(self._head_table), self._kept(), held)

    def first_block(self) -> Moment:
        """The backward pass is where the forward pass began: all gradients, and one block's activations."""
        one = {"embedding": self.kept.embedding * self.tokens} | (
            {"block inputs": FLOAT32 * self.model.n_embd * self.tokens}
            if self.config.device.gradient_checkpointing
            else self._of_blocks(1)
        )
        held = {"weight copies": self._weight_copies(self.counts.matrices // self.model.n_layer), **self._in_a_block()}
        return self._moment(IN_PASSES[2], self._gradients(self.trained), one, held)

    def update(self) -> Moment:
        return self._moment("update", self._gradients(self.trained), {"workspace": self._update_workspace()})

    def evaluation(self) -> Moment:
        """Gradients stay until the next step forgets them."""
        model = self.model
        tokens = max(model.block_size, min(TOKENS_AT_ONCE, 4 * self.tokens))
        hidden = model.ffn_width * (4 if model.activation == "swiglu" else 2)
        held = {
            "weight copies": self._weight_copies(self.counts.matrices + self._head_table),
            "logits": 2 * FLOAT32 * self._logits(tokens),
            "workspace": tokens * (3 * FLOAT32 * model.n_embd + self.product * hidden),
        }
        return self._moment("evaluation", self._gradients(self.trained), held)

    def _moment(self, name: str, *parts: dict[str, int]) -> Moment:
        total: Counter[str] = Counter()
        for some in ({"parameters": FLOAT32 * (self.counts.total + self.adapters)}, *self._optimizer(), *parts):
            total.update(some)
        in_float32_alone = self.device == "cpu" and {self.precision, self.newton_schulz} == {"float32"}
        total[LIBRARIES] = IN_FLOAT32_ALONE if in_float32_alone else OF_LIBRARIES[self.device]
        if self.device == "cpu" and name in IN_PASSES and not self.config.device.gradient_checkpointing:
            total[ALLOCATOR] = self._unusable() + int(HEAP_HOLES * (total["attention"] + total["feed-forward"]))
        return Moment(name, {part: size for part, size in total.items() if size})

    def _optimizer(self) -> tuple[dict[str, int], dict[str, int]]:
        """AdamW keeps two moments, Muon one momentum; an average of the weights is one more of them."""
        averages = self.trained if self.config.training.weight_average else 0
        return (
            {"optimizer": FLOAT32 * (2 * (self.trained - self.by_muon) + self.by_muon)},
            {"weight average": FLOAT32 * averages},
        )

    def _gradients(self, made: int) -> dict[str, int]:
        """Those of a step of several passes are all there from the second on."""
        return {"gradients": FLOAT32 * (self.trained if self.passes > 1 else min(made, self.trained))}

    def _kept(self) -> dict[str, int]:
        kept, tokens = self.kept, self.tokens
        outside = {"embedding": kept.embedding * tokens, "final norm": kept.final_norm * tokens}
        if self.config.device.gradient_checkpointing:
            return outside | self._block_inputs
        return outside | self._of_blocks(self.model.n_layer)

    @property
    def _block_inputs(self) -> dict[str, int]:
        return {"block inputs": self.model.n_layer * FLOAT32 * self.model.n_embd * self.tokens}

    def _of_blocks(self, count: int) -> dict[str, int]:
        return {
            "attention": count * (self.kept.attention * self.tokens + self.kept.rotary_tables),
            "feed-forward": count * self.kept.feedforward * self.tokens,
        }

    def _in_a_block(self) -> dict[str, int]:
        """The backward pass through one block: gradients on their way, and what is computed again."""
        model = self.model
        on_their_way = {"swiglu": 3, "gelu": 1, "gelu_erf": 1, "relu2": 2}[model.activation] * model.ffn_width
        parts = {"workspace": self.tokens * (2 * FLOAT32 * model.n_embd + self.product * on_their_way)}
        if self.fused:  # one function holds the gradients of all that the block has computed
            queries, keys = model.n_head * model.head_width, model.kv_heads * model.head_width
            more = (3 if model.dropout else 2) * model.n_embd + 2 * queries + 2 * keys
            parts["workspace"] += self.tokens * (FLOAT32 * model.n_embd + self.product * more)
        if self.config.device.gradient_checkpointing:
            parts |= self._of_blocks(1)
        return parts

    def _logits(self, tokens: int) -> int:
        """How many there are at once."""
        rows = max(1, LOGITS_AT_ONCE // vocabulary(self.model))
        return min(tokens, rows) * vocabulary(self.model)

    @property
    def _of_a_logit(self) -> int:
        """Bytes when the backward pass begins: on a CPU the gradient in its place and what is passed on
        (nanogpt.model.cross_entropy), else the log-probability, its gradient and its own, in float32."""
        return 2 * self.product if self.device == "cpu" else 3 * FLOAT32

    @property
    def _head_table(self) -> int:
        return vocabulary(self.model) * self.model.n_embd

    def _weight_copies(self, numbers: int) -> int:
        """Autocast's, in the type of the products."""
        return 0 if self.product == FLOAT32 else self.product * numbers

    def _unusable(self) -> int:
        """Heap that the update has used and the passes cannot, on a CPU.

        Gradients, which live on, lie between what the passes free, and what the update frees lies behind them: each
        of the two grows the heap for itself. (HEAP_HOLES are left by what is freed between activations: aligned blocks
        of the same size do not fit there again.) Where blocks are computed again there is neither: what
        is freed goes back at once.
        """
        largest = max((stacked for stacked, _ in self._stacks()), default=0)
        return 0 if FLOAT32 * largest >= MAPPED_APART else self._update_workspace()

    def _update_workspace(self) -> int:
        """Of Muon, all matrices of a shape at once: the momentum to be made orthogonal, its copy in another type, and
        four Gram matrices or one and the result; and what the shape before has left."""
        size = FLOAT32 if self.newton_schulz == "float32" else 2
        largest, left_from_before = 0, 0
        for stacked, gram in self._stacks():
            held = FLOAT32 * stacked + (0 if size == FLOAT32 else size * stacked)
            largest = max(largest, left_from_before + held + size * max(4 * gram, gram + stacked))
            left_from_before = FLOAT32 * stacked + size * stacked
        return largest

    def _stacks(self) -> list[tuple[int, int]]:
        """Numbers in each stack of same-shaped matrices and in their Gram matrices (training/update/muon.py)."""
        if not self.by_muon:
            return []
        model = self.model
        heads = [(model.head_width, model.n_embd)] * (model.n_head + model.kv_heads)  # of queries and keys
        shapes = Counter([*heads, *matrix_shapes(model)[2:]])
        return [
            (model.n_layer * count * rows * columns, model.n_layer * count * min(rows, columns) ** 2)
            for (rows, columns), count in shapes.items()
        ]
