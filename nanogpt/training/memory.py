"""How much memory a training takes, told before anything is allocated. Arithmetic, no torch.

What autograd keeps for the backward pass is written down here layer by layer, as nanogpt/model saves it; what is held
beside it differs from moment to moment of a step, and the largest moment is the peak. tests/nanogpt/test_memory.py
holds every part against what torch really saves and allocates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from nanogpt.config import Config, ModelConfig
from nanogpt.training.sizes import FLOAT32, Parameters, matrix_shapes, parameters

MIB = 2**20
LOGITS_AT_ONCE = 32 * 2**20  # elements; nanogpt.model.gpt computes the loss in chunks beyond it
TOKENS_AT_ONCE = 8192  # of an evaluation's forward pass
SHORT_WINDOW = 512  # positions; up to it attention in bfloat16 on a CPU is nanogpt.model.short_attention
LIBRARIES, ALLOCATOR = "libraries", "allocator"  # parts that are no tensors
OF_LIBRARIES = {"cpu": 22 * MIB, "cuda": 32 * MIB, "mps": 22 * MIB}  # kernels, scratch; CUDA: cuBLAS's on Hopper
IN_PASSES = ("loss", "backward, last block", "backward, first block")  # the moments of forward and backward pass
MAPPED_APART = 2**30  # bytes; larger blocks are no part of glibc's heap (nanogpt.allocator)


@dataclass(frozen=True)
class Moment:
    """What is held at once at one point of a step: bytes by part, none of them zero."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def of_tensors(self) -> int:
        """Bytes that torch counts as allocated."""
        return self.total - sum(self.parts.get(part, 0) for part in (LIBRARIES, ALLOCATOR))


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
    def parts(self) -> dict[str, int]:
        """Bytes by part at the peak."""
        return self.peak.parts

    @property
    def total(self) -> int:
        """Bytes at the peak, above what a process with torch takes anyway."""
        return self.peak.total


def predict(
    config: Config, vocab_size: int | None = None, micro_batch: int | None = None, precision: str = "float32",
    device: str = "cpu", gradient_checkpointing: bool | None = None,
) -> Memory:
    """Memory of training `config`; what is not given is the configuration's.

    `micro_batch`: sequences in one forward and backward pass; the step's whole batch stays. `precision`: of the
    products, "float32", "bfloat16" or "float16". Raises ValueError while the vocabulary is not known.
    """
    if vocab_size is not None:
        config = config.with_changes({"model.vocab_size": vocab_size})
    if gradient_checkpointing is not None:
        config = config.with_changes({"device.gradient_checkpointing": gradient_checkpointing})
    batch = config.training.batch_size * config.training.gradient_accumulation
    rows = min(micro_batch or config.training.batch_size, batch)
    return _Step(config, rows, passes=-(-batch // rows), device=device, precision=precision).memory()


# ---- what autograd keeps: bytes a token and layer


@dataclass(frozen=True)
class Kept:
    """Bytes that one token leaves behind for the backward pass, by layer of `model`.

    Residuals and norms are float32; `product` is the size of what a matrix product gives.
    """

    model: ModelConfig
    device: str
    product: int  # bytes

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
        if model.qk_norm and not self._is_short:
            kept += FLOAT32 * (queries + keys + model.n_head + model.kv_heads)
        attend = self._dropping_attention if self._drops_scores else (
            self._short_attention if self._is_short else self._flash_attention
        )  # fmt: skip
        return kept + self._dropped(self.product) + attend(queries, keys)

    @property
    def rotary_tables(self) -> int:
        """Bytes of one block, however many sequences: short attention widens the tables to all heads."""
        model = self.model
        if not self._is_short or model.position != "rope":
            return 0
        return 2 * FLOAT32 * model.block_size * (model.n_head + model.kv_heads) * model.head_width

    @property
    def feedforward(self) -> int:
        """Of one block, its norm included: what up has read, has given, and what down has read."""
        wide = {"swiglu": 4, "gelu": 2, "gelu_erf": 2, "relu2": 2}[self.model.activation]
        return self._norm + self.product * (self.model.n_embd + wide * self.model.ffn_width) + self._dropped(
            self.product
        )

    @property
    def final_norm(self) -> int:
        """What the norm and the head have read."""
        return self._norm + self.product * self.model.n_embd

    @property
    def _norm(self) -> int:
        statistics = 2 if self.model.norm == "layernorm" else 1
        return FLOAT32 * (self.model.n_embd + statistics)

    def _dropped(self, size: int) -> int:
        """Dropout's mask: of the type of what is dropped on a CPU, of a byte elsewhere."""
        if not self.model.dropout:
            return 0
        return self.model.n_embd * (size if self.device == "cpu" else 1)

    @property
    def _drops_scores(self) -> bool:
        """On a CPU, attention with dropout computes whole tables of scores."""
        return bool(self.model.dropout) and self.device == "cpu"

    @property
    def _is_short(self) -> bool:
        """Whether nanogpt.model.short_attention is at work (float16 has no such kernel)."""
        return (self.device == "cpu" and self.product < FLOAT32 and self.model.block_size <= SHORT_WINDOW
                and not self.model.dropout)  # fmt: skip

    def _dropping_attention(self, queries: int, keys: int) -> int:
        scores = 3 * FLOAT32 * self.model.n_head * self.model.block_size  # after softmax, dropout's mask, both
        return scores + 3 * FLOAT32 * queries + self.product * queries

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


# ---- what a step holds, moment by moment


@dataclass(frozen=True)
class _Step:
    config: Config
    rows: int  # sequences in one forward and backward pass
    passes: int  # of them in a step
    device: str
    precision: str

    @property
    def model(self) -> ModelConfig:
        return self.config.model

    @cached_property
    def counts(self) -> Parameters:
        return parameters(self.model)

    @property
    def product(self) -> int:
        return FLOAT32 if self.precision == "float32" else 2

    @property
    def tokens(self) -> int:
        return self.rows * self.model.block_size

    def memory(self) -> Memory:
        moments: list[Callable[[], Moment]] = [
            self.loss, self.last_block, self.first_block, self.update, self.evaluation,
        ]  # fmt: skip
        return Memory(tuple(moment() for moment in moments))

    def loss(self) -> Moment:
        """The backward pass begins: every layer's activations, and the logits."""
        return self._moment(IN_PASSES[0], self._gradients(0), self._kept(), {
            "weight copies": self._weight_copies(self.counts.matrices + self._head_table),
            "logits": self._logits(self.tokens) * self._of_a_logit,
        })  # fmt: skip

    def last_block(self) -> Moment:
        """The backward pass has left the head: its gradient is there, the logits are not."""
        return self._moment(IN_PASSES[1], self._gradients(self._head_table), self._kept(), {
            "weight copies": self._weight_copies(self.counts.matrices), **self._in_a_block(),
        })  # fmt: skip

    def first_block(self) -> Moment:
        """The backward pass is where the forward pass began: all gradients, and one block's activations."""
        kept = Kept(self.model, self.device, self.product)
        one = {"embedding": kept.embedding * self.tokens} | (
            {"block inputs": FLOAT32 * self.model.n_embd * self.tokens}
            if self.config.device.gradient_checkpointing
            else self._of_blocks(1)
        )
        copies = self._weight_copies(self.counts.matrices // self.model.n_layer)
        return self._moment(IN_PASSES[2], self._gradients(self.counts.total), one,
                            {"weight copies": copies, **self._in_a_block()})  # fmt: skip

    def update(self) -> Moment:
        return self._moment("update", self._gradients(self.counts.total), {"workspace": self._update_workspace()})

    def evaluation(self) -> Moment:
        """Gradients stay until the next step forgets them."""
        model = self.model
        tokens = max(model.block_size, min(TOKENS_AT_ONCE, 4 * self.tokens))
        hidden = model.ffn_width * (4 if model.activation == "swiglu" else 2)
        workspace = tokens * (3 * FLOAT32 * model.n_embd + self.product * hidden)
        return self._moment("evaluation", self._gradients(self.counts.total), {
            "weight copies": self._weight_copies(self.counts.matrices + self._head_table),
            "logits": 2 * FLOAT32 * self._logits(tokens), "workspace": workspace,
        })  # fmt: skip

    def _moment(self, name: str, *parts: dict[str, int]) -> Moment:
        total: Counter[str] = Counter()
        for some in ({"parameters": FLOAT32 * self.counts.total}, *self._optimizer(), *parts):
            total.update(some)
        total.update({LIBRARIES: OF_LIBRARIES[self.device], ALLOCATOR: self._unusable() if name in IN_PASSES else 0})
        return Moment(name, {part: size for part, size in total.items() if size})

    def _optimizer(self) -> tuple[dict[str, int], dict[str, int]]:
        """AdamW keeps two moments, Muon one momentum; an average of the weights is one more of them."""
        by_muon = self.counts.matrices if self.config.training.optimizer == "muon" else 0
        averages = self.counts.total if self.config.training.weight_average else 0
        return (
            {"optimizer": FLOAT32 * (2 * (self.counts.total - by_muon) + by_muon)},
            {"weight average": FLOAT32 * averages},
        )

    def _gradients(self, made: int) -> dict[str, int]:
        """Those of a step of several passes are all there from the second on."""
        return {"gradients": FLOAT32 * (self.counts.total if self.passes > 1 else made)}

    def _kept(self) -> dict[str, int]:
        kept, layers, tokens = Kept(self.model, self.device, self.product), self.model.n_layer, self.tokens
        outside = {"embedding": kept.embedding * tokens, "final norm": kept.final_norm * tokens}
        if self.config.device.gradient_checkpointing:
            return outside | {"block inputs": layers * FLOAT32 * self.model.n_embd * tokens}
        return outside | self._of_blocks(self.model.n_layer)

    def _of_blocks(self, count: int) -> dict[str, int]:
        kept = Kept(self.model, self.device, self.product)
        return {
            "attention": count * (kept.attention * self.tokens + kept.rotary_tables),
            "feed-forward": count * kept.feedforward * self.tokens,
        }

    def _in_a_block(self) -> dict[str, int]:
        """The backward pass through one block: gradients on their way, and what is computed again."""
        model = self.model
        on_their_way = {"swiglu": 3, "gelu": 1, "gelu_erf": 1, "relu2": 2}[model.activation] * model.ffn_width
        parts = {"workspace": self.tokens * (2 * FLOAT32 * model.n_embd + self.product * on_their_way)}
        if self.config.device.gradient_checkpointing:
            parts |= self._of_blocks(1)
        return parts

    def _logits(self, tokens: int) -> int:
        """How many there are at once."""
        return min(tokens, max(1, LOGITS_AT_ONCE // self.model.vocab_size)) * self.model.vocab_size

    @property
    def _of_a_logit(self) -> int:
        """Bytes when the backward pass begins: on a CPU the gradient in its place and what is passed on
        (nanogpt.model.cross_entropy), else the log-probability, its gradient and its own, in float32."""
        return 2 * self.product if self.device == "cpu" else 3 * FLOAT32

    @property
    def _head_table(self) -> int:
        return self.model.vocab_size * self.model.n_embd

    def _weight_copies(self, numbers: int) -> int:
        """Autocast's, in the type of the products."""
        return 0 if self.product == FLOAT32 else self.product * numbers

    def _unusable(self) -> int:
        """Heap that the update has used and the passes cannot.

        Gradients, which live on, lie between what the passes free, and what the update frees lies behind them: on
        CPUs each of the two grows the heap for itself (micro, tiny and small: within 8 % so, up to a quarter less
        than measured without).
        """
        workspace = self._update_workspace()
        return workspace if self.device == "cpu" and workspace < MAPPED_APART else 0

    def _update_workspace(self) -> int:
        """Of Muon: all matrices of a shape at once, as nanogpt.training.optimizer stacks them."""
        if self.config.training.optimizer != "muon":
            return 0
        shapes = Counter(tuple(sorted(shape)) for shape in matrix_shapes(self.model))
        largest, left_from_before = 0, 0
        for (rows, columns), count in shapes.items():
            stacked, gram = (self.model.n_layer * count * rows * width for width in (columns, rows))
            iterating = self.product * 2 * (stacked + gram)
            largest = max(largest, left_from_before + FLOAT32 * stacked + iterating)
            left_from_before = FLOAT32 * stacked
        return largest
