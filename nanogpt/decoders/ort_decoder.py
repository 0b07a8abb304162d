"""Decoding by onnxruntime: fast on a CPU without a compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import numpy.typing as npt

from nanogpt.config import ModelConfig
from nanogpt.decoders.protocol import Cache, Logits, Precision, check_lengths
from nanogpt.faults import UserError
from nanogpt.native.unavailable import Unavailable
from nanogpt.weights.safe_loading import Array

LARGEST_GRAPH = 2**31 - 2**20  # bytes: what protobuf can hold
CPU = ("cpu", 0)


class OrtCache:
    """For each layer and side an array (capacity, n_kv_head, block_size, head_dim), a row for each text.

    GroupQueryAttention writes into it in place. Memory is taken from the system only where something is written.
    """

    def __init__(self, config: ModelConfig):
        self.config = config
        self.lengths: list[int] = []
        self.arrays: list[Array] = []
        self.step: Step | None = None  # bound to these rows; made when needed

    def select(self, rows: Sequence[int]) -> None:
        old, self.lengths = self.lengths, [self.lengths[row] for row in rows]
        self.step = None
        if list(rows) == list(range(len(rows))):
            return
        longest = max(self.lengths, default=0)
        parts = [array[list(rows), :, :longest] for array in self.arrays]
        if len(rows) > len(old):
            self.make_room(len(rows))
        for array, part in zip(self.arrays, parts, strict=True):
            array[: len(rows), :, :longest] = part

    def copied(self, rows: Sequence[int]) -> OrtCache:
        copy = OrtCache(self.config)
        copy.lengths = [self.lengths[row] for row in rows]
        copy.make_room(len(rows))
        longest = max(copy.lengths, default=0)
        for mine, theirs in zip(copy.arrays, self.arrays, strict=True):
            mine[:, :, :longest] = theirs[list(rows), :, :longest]
        return copy

    def join(self, other: Cache) -> None:
        assert isinstance(other, OrtCache)
        before, longest = len(self.lengths), max(other.lengths, default=0)
        self.lengths, self.step = [*self.lengths, *other.lengths], None
        self.make_room(len(self.lengths))
        for mine, theirs in zip(self.arrays, other.arrays, strict=True):
            mine[before : len(self.lengths), :, :longest] = theirs[: len(other.lengths), :, :longest]

    def cut(self, lengths: Sequence[int]) -> None:
        self.lengths = [min(old, new) for old, new in zip(self.lengths, lengths, strict=True)]

    def make_room(self, rows: int) -> None:
        """At least as many rows, twice as many as before when that is not enough; what they hold stays."""
        config, capacity = self.config, len(self.arrays[0]) if self.arrays else 0
        if rows <= capacity:
            return
        shape = (max(rows, 2 * capacity), config.kv_heads, config.block_size, config.head_width)
        larger = [np.zeros(shape, np.float32) for _ in range(2 * config.n_layer)]
        longest = max(self.lengths, default=0)
        for new, old in zip(larger, self.arrays, strict=False):
            new[:capacity, :, :longest] = old[:, :, :longest]
        self.arrays = larger


class Step:
    """The inputs and outputs of the graph for `rows` of a cache that read `count` tokens each, bound to arrays."""

    def __init__(self, decoder: OrtDecoder, cache: OrtCache, rows: slice, count: int, first: int = 0):
        """first: of the tokens whose logits are wanted."""
        config, self.decoder = decoder.config, decoder
        size = rows.stop - rows.start
        self.tokens = np.zeros((size, count), np.int64)
        self.places = np.zeros((size, count), np.int64)
        self.last = np.zeros(size, np.int32)
        self.total = np.zeros(1, np.int32)
        self.logits = np.zeros((size, count - first, config.vocab_size or 0), np.float32)
        self.first = np.array([first])
        self.binding = decoder.session.io_binding()
        inputs: dict[str, npt.NDArray[np.generic]] = {
            "input_ids": self.tokens, "seqlens_k": self.last, "total": self.total, "first": self.first
        }  # fmt: skip
        if config.position == "learned":
            inputs["position_ids"] = self.places
        names = [f"{layer}.{side}" for layer in range(config.n_layer) for side in ("key", "value")]
        held = {name: array[rows] for name, array in zip(names, cache.arrays, strict=True)}
        inputs |= {f"past_key_values.{name}": array for name, array in held.items()}
        outputs = {"logits": self.logits} | {f"present.{name}": array for name, array in held.items()}
        for name, array in inputs.items():
            self.binding.bind_input(name, *CPU, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self.binding.bind_output(name, *CPU, array.dtype.type, array.shape, array.ctypes.data)
        self.bound = [*inputs.values(), *outputs.values()]  # the binding knows their addresses alone

    def run(self, tokens: npt.ArrayLike, held: Sequence[int]) -> Logits:
        """Each row reads its tokens (rows, count) behind the `held` ones -> logits (rows, wanted, vocab_size)."""
        count = self.tokens.shape[1]
        self.tokens[:] = tokens
        self.last[:] = held
        self.last += count - 1
        self.total[0] = max(held) + count
        self.places[:] = np.asarray(held)[:, None] + np.arange(count)
        self.decoder.session.run_with_iobinding(self.binding)
        return self.logits


class OrtDecoder:
    """A model as a session of onnxruntime on the CPU."""

    name = "onnxruntime"

    def __init__(
        self, config: ModelConfig, arrays: Mapping[str, Array], threads: int = 1, precision: Precision = "float32"
    ):
        """Raises Unavailable without onnxruntime, and for a model that its attention or a graph cannot hold."""
        self.library = _onnxruntime()
        self.config, self.precision = config, precision
        self.graph = _graph(config, arrays, precision)
        self.set_threads(threads)

    @property
    def description(self) -> str:
        return f"onnxruntime, {self.precision}, {self.threads} thread{'s' * (self.threads > 1)}"

    def set_threads(self, threads: int) -> None:
        """A new session with as many threads; a cache of the one before goes on."""
        options = self.library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors: it warns of nodes that it moves
        self.session = self.library.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])
        self.threads = threads

    def new_cache(self) -> OrtCache:
        return OrtCache(self.config)

    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache, *, every: bool = False) -> Logits:
        assert isinstance(cache, OrtCache)
        held = cache.lengths or [0] * len(prompts)
        counts = [len(prompt) for prompt in prompts]
        check_lengths(self.config, [old + new for old, new in zip(held, counts, strict=True)])
        self._check_tokens(np.concatenate([np.asarray(prompt) for prompt in prompts]))
        if not cache.lengths:
            cache.step = None
            cache.make_room(len(prompts))
        if len(set(counts)) == 1 and not any(held):
            logits = self._read(prompts, held, cache, slice(0, len(prompts)), every)
        else:  # several tokens behind others are read by one row at a time
            rows = [slice(row, row + 1) for row in range(len(prompts))]
            parts = [self._read(prompts[row], held[row], cache, row, every) for row in rows]
            logits = np.concatenate(parts)
        cache.lengths = [old + new for old, new in zip(held, counts, strict=True)]
        return logits

    def step(self, tokens: npt.NDArray[np.int64], cache: Cache) -> Logits:
        assert isinstance(cache, OrtCache)
        check_lengths(self.config, [length + 1 for length in cache.lengths])
        self._check_tokens(tokens)
        step = cache.step
        if step is None or step.decoder is not self:
            step = cache.step = Step(self, cache, slice(0, len(cache.lengths)), 1)
        logits = step.run(tokens[:, None], cache.lengths)[:, 0].copy()
        cache.lengths = [length + 1 for length in cache.lengths]
        return logits

    def _read(
        self, prompts: Sequence[Sequence[int]], held: Sequence[int], cache: OrtCache, rows: slice, every: bool
    ) -> Logits:
        """Prompts of one length -> logits (N, vocab_size), row by row."""
        count = len(prompts[0])
        logits = Step(self, cache, rows, count, 0 if every else count - 1).run(prompts, held)
        return logits.reshape(-1, logits.shape[-1])

    def _check_tokens(self, tokens: npt.NDArray[np.int64]) -> None:
        if tokens.min() < 0 or tokens.max() >= (self.config.vocab_size or 0):
            raise ValueError(f"a token is not in the vocabulary of {self.config.vocab_size}")


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime  # 0.06 s that the other backends do not need
    except ImportError as error:  # no wheel for this Python or processor
        raise Unavailable("it is not installed") from error
    module: ModuleType = onnxruntime
    return module


def _graph(config: ModelConfig, arrays: Mapping[str, Array], precision: Precision) -> bytes:
    try:
        from nanogpt.decoders import onnx_graph  # 0.1 s that the other backends do not need
    except ImportError as error:
        raise Unavailable("it needs onnx, which is not installed") from error
    if sum(array.nbytes for array in arrays.values()) > LARGEST_GRAPH:
        raise Unavailable("the model is larger than the 2 GB that a graph holds")
    try:
        graph: bytes = onnx_graph.build(config, arrays, precision, mask=False).SerializeToString()
    except UserError as error:
        raise Unavailable(str(error)) from error
    return graph
