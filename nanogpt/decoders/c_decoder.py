"""Decoding by a C library: the fastest on a CPU, where a compiler is."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nanogpt.config import ModelConfig
from nanogpt.decoders.parts import Block, Linear, parts_of
from nanogpt.decoders.protocol import Cache, Logits, Precision, check_lengths
from nanogpt.native.c_source import CSource, Notify
from nanogpt.native.unavailable import Unavailable
from nanogpt.weights.quantization import quantize
from nanogpt.weights.safe_loading import Array

SOURCE = CSource(Path(__file__).with_name("c") / "decoder.c", "decoder", seconds=1)
# The enums of decoder.c; that of vectors is in the order in which _put_block() hands them over
NORMS = ("layernorm", "rmsnorm")
ACTIVATIONS = ("gelu", "gelu_erf", "relu2", "swiglu")
MATRICES = ("qkv", "output", "up", "down", "gate", "head")

Pointer, Number, Long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
FUNCTIONS = {  # result, arguments
    "panel": (Number, []),
    "create": (Pointer, [Pointer, ctypes.c_float]),
    "destroy": (None, [Pointer]),
    "set_threads": (Number, [Pointer, Number]),
    "put_tables": (None, [Pointer] * 7),
    "put_vector": (None, [Pointer, Number, Number, Pointer]),
    "put_matrix": (Number, [Pointer, *[Number] * 4, Pointer, Long, Long, Pointer]),
    "put_int8": (Number, [Pointer, *[Number] * 4, *[Pointer] * 3]),
    "forward": (Number, [Pointer, Number, Number, *[Pointer] * 5, Number, Pointer, Pointer]),
}


# Tokens of a call from which on other threads may help than with one. Two threads take time to find each other: a token
# of micro takes 53 us with one, and 37 or 54 with two, from one hour to the next on one machine; 8 texts always gain.
SEVERAL = 4


@dataclass
class Row:
    """One text: its keys and values, as decoder.c lays them out, and how many tokens they are of."""

    keys: Array
    values: Array
    length: int = 0


class CCache:
    """A row is never moved: rows join and leave by their place in a list."""

    def __init__(self, layout: Layout):
        self.layout = layout
        self.rows: list[Row] = []
        self.pointers: Pointers | None = None  # of these rows; made when needed

    @property
    def lengths(self) -> list[int]:
        return [row.length for row in self.rows]

    def select(self, rows: Sequence[int]) -> None:
        seen: set[int] = set()
        chosen = []
        for row in rows:
            chosen.append(self.layout.copied(self.rows[row]) if row in seen else self.rows[row])
            seen.add(row)
        self.rows, self.pointers = chosen, None

    def copied(self, rows: Sequence[int]) -> CCache:
        copy = CCache(self.layout)
        copy.rows = [self.layout.copied(self.rows[row]) for row in rows]
        return copy

    def join(self, other: Cache) -> None:
        assert isinstance(other, CCache)
        self.rows, self.pointers = [*self.rows, *other.rows], None

    def cut(self, lengths: Sequence[int]) -> None:
        for row, length in zip(self.rows, lengths, strict=True):
            row.length = min(row.length, length)


class Layout:
    """How decoder.c lays out a text's cache: keys `[head][panel of places][head_dim][PANEL]`, values
    `[head][panel of head_dim][place][PANEL]`, the heads of all layers one behind the other."""

    def __init__(self, config: ModelConfig, panel: int):
        heads = config.n_layer * config.kv_heads
        held = math.ceil(config.block_size / panel)
        self.panel = panel
        self.keys = (heads, held, config.head_width, panel)
        self.values = (heads, math.ceil(config.head_width / panel), held * panel, panel)

    def new(self) -> Row:
        """An empty row. Its memory is taken from the system only where something is written."""
        return Row(on_a_cache_line(self.keys), on_a_cache_line(self.values))

    def copied(self, row: Row) -> Row:
        copy, panels = self.new(), math.ceil(row.length / self.panel)
        copy.keys[:, :panels] = row.keys[:, :panels]
        copy.values[:, :, : row.length] = row.values[:, :, : row.length]
        copy.length = row.length
        return copy


class Pointers:
    """What decoder.c takes of the rows of a cache when each reads one token: made once for many steps."""

    def __init__(self, rows: Sequence[Row]):
        self.keys, self.values = addresses(row.keys for row in rows), addresses(row.values for row in rows)
        self.texts = np.arange(len(rows), dtype=np.int32)
        self.tokens, self.places = np.empty(len(rows), np.int64), np.empty(len(rows), np.int32)
        self.arguments = [array.ctypes.data for array in (self.tokens, self.texts, self.places, self.keys, self.values)]
        self.which = self.texts.ctypes.data


class CDecoder:
    """A model in the library's own layout, with a team of threads that sleeps between calls."""

    name = "c"

    def __init__(
        self,
        config: ModelConfig,
        arrays: Mapping[str, Array],
        threads: int = 1,
        precision: Precision = "float32",
        notify: Notify = lambda message: None,
    ):
        """Raises Unavailable where there is no library, or not enough memory or threads."""
        self.config, self.precision = config, precision
        self.library = _typed(SOURCE.load(notify))
        self.layout = Layout(config, self.library.panel())
        shape = np.array(
            [config.n_layer, config.n_head, config.kv_heads, config.head_width, config.n_embd, config.ffn_width,
             config.vocab_size or 0, config.block_size, NORMS.index(config.norm), ACTIVATIONS.index(config.activation)],
            np.int32,
        )  # fmt: skip
        self.model = Pointer(self.library.create(shape.ctypes.data, config.norm_eps))
        if not self.model.value:
            raise Unavailable("there is not enough memory")
        self.close = weakref.finalize(self, self.library.destroy, self.model)
        self.kept: list[Array] = []  # what the library points to
        self._put(arrays)
        self.set_threads(threads)

    @property
    def description(self) -> str:
        several = f", {self.for_several} for several texts" if self.for_several != self.threads else ""
        return f"C, {self.precision}, {self.threads} thread{'s' * (self.threads > 1)}{several}"

    def set_threads(self, threads: int, for_several: int | None = None) -> None:
        """From now on as many compute, `for_several` where a call has SEVERAL tokens. Raises Unavailable."""
        for_several = for_several or threads
        if self.library.set_threads(self.model, max(threads, for_several)):
            raise Unavailable(f"{max(threads, for_several)} threads cannot be started")
        self.threads, self.for_several = threads, for_several

    def new_cache(self) -> CCache:
        return CCache(self.layout)

    def prefill(self, prompts: Sequence[Sequence[int]], cache: Cache, *, every: bool = False) -> Logits:
        assert isinstance(cache, CCache)
        held = cache.lengths or [0] * len(prompts)
        counts = [len(prompt) for prompt in prompts]
        check_lengths(self.config, [old + new for old, new in zip(held, counts, strict=True)])
        if not cache.rows:
            cache.rows, cache.pointers = [self.layout.new() for _ in prompts], None
        tokens = np.concatenate([np.asarray(prompt, np.int64) for prompt in prompts])
        texts = np.repeat(np.arange(len(prompts), dtype=np.int32), counts)
        places = np.concatenate(
            [np.arange(old, old + new, dtype=np.int32) for old, new in zip(held, counts, strict=True)]
        )
        which = np.arange(len(tokens), dtype=np.int32) if every else np.cumsum(counts, dtype=np.int32) - 1
        pointers = cache.pointers = cache.pointers or Pointers(cache.rows)
        arguments = [array.ctypes.data for array in (tokens, texts, places, pointers.keys, pointers.values)]
        logits = self._forward(len(tokens), arguments, len(which), which.ctypes.data)
        for row, count in zip(cache.rows, counts, strict=True):
            row.length += count
        return logits

    def step(self, tokens: npt.NDArray[np.int64], cache: Cache) -> Logits:
        assert isinstance(cache, CCache)
        rows = cache.rows
        lengths = [row.length for row in rows]
        check_lengths(self.config, [length + 1 for length in lengths])
        pointers = cache.pointers = cache.pointers or Pointers(rows)
        pointers.tokens[:], pointers.places[:] = tokens, lengths
        logits = self._forward(len(rows), pointers.arguments, len(rows), pointers.which)
        for row in rows:
            row.length += 1
        return logits

    def _forward(self, count: int, arguments: Sequence[int], wanted: int, which: int) -> Logits:
        logits = np.empty((wanted, self.config.vocab_size or 0), np.float32)
        threads = self.threads if count < SEVERAL else self.for_several
        if self.library.forward(self.model, threads, count, *arguments, wanted, which, logits.ctypes.data):
            raise ValueError(f"a token is not in the vocabulary of {self.config.vocab_size}")
        return logits

    def _put(self, arrays: Mapping[str, Array]) -> None:
        config, parts = self.config, parts_of(self.config, arrays)
        rotation, final = parts.rotation, parts.final_norm
        tables = [parts.table, parts.positions, *((rotation.cos, rotation.sin) if rotation else (None, None))]
        self.library.put_tables(self.model, *map(self._keep, [*tables, final.weight, final.bias]))
        for layer, block in enumerate(parts.blocks):
            self._put_block(layer, block)
        self._put_matrix(config.n_layer, "head", parts.head)

    def _put_block(self, layer: int, block: Block) -> None:
        before, behind = block.attention_norm, block.feedforward_norm
        vectors = [before.weight, before.bias, behind.weight, behind.bias, block.q_norm, block.k_norm]
        for which, vector in enumerate(vectors):
            self.library.put_vector(self.model, layer, which, self._keep(vector))
        self._put_matrix(layer, "qkv", block.qkv)
        self._put_matrix(layer, "output", block.output)
        self._put_matrix(layer, "down", block.down)
        if self.config.activation != "swiglu":
            self._put_matrix(layer, "up", block.up)
            return
        width, bias = self.config.ffn_width, block.up.bias
        for name, rows in (("gate", slice(0, width)), ("up", slice(width, None))):
            self._put_matrix(layer, name, Linear(block.up.weight[rows], None if bias is None else bias[rows]))

    def _put_matrix(self, layer: int, name: str, linear: Linear) -> None:
        weight, place = linear.weight, (self.model, layer, MATRICES.index(name), *linear.weight.shape)
        bias = None if linear.bias is None else np.ascontiguousarray(linear.bias)
        bias_at = None if bias is None else bias.ctypes.data
        if self.precision == "int8":
            quantized = quantize(weight, 8)
            values, scales = quantized.values, np.ascontiguousarray(quantized.scales)
            failed = self.library.put_int8(*place, values.ctypes.data, scales.ctypes.data, bias_at)
        else:
            strides = [stride // weight.itemsize for stride in weight.strides]
            failed = self.library.put_matrix(*place, weight.ctypes.data, *strides, bias_at)
        if failed:
            raise Unavailable("there is not enough memory")

    def _keep(self, array: Array | None) -> int | None:
        """The address of an array that the library goes on to read."""
        if array is None:
            return None
        self.kept.append(np.ascontiguousarray(array))
        address: int = self.kept[-1].ctypes.data
        return address


def on_a_cache_line(shape: Sequence[int]) -> Array:
    """An empty array (*shape,). numpy's begin anywhere, and most vectors then lie in two lines: 2 % of micro's time."""
    size, line = math.prod(shape), 64
    numbers = np.empty(size + line // 4, np.float32)
    start = -numbers.ctypes.data % line // 4
    return numbers[start : start + size].reshape(shape)


def addresses(arrays: Iterable[Array]) -> npt.NDArray[np.uintp]:
    """Where the numbers of each array lie."""
    return np.array([array.ctypes.data for array in arrays], np.uintp)


def _typed(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise Unavailable(f"what the compiler has built lacks {name}()") from error
        function.restype, function.argtypes = result, arguments
    return library
