"""One token of each text as one recorded step over buffers that stay where they are: a CUDA graph.

A GPU computes a small model's step in less time than Python takes to launch its kernels one by one; a graph launches
them all at once. What it recorded are addresses and shapes, so keys, values, tokens and places lie in a frame of fixed
size, and a mask hides what a row does not hold yet.

No GPU was at hand when this was written: the tests compute the step on a CPU, call by call and from a trace of one
step, and no CUDA graph has been recorded or timed. So each new graph has to give the step's own logits once; if it
does not, or cannot be recorded, the decoder goes on call by call and says so.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nanogpt.config import ModelConfig
from nanogpt.decoders.torch_step import TorchStep
from nanogpt.model.attention import KVCache
from nanogpt.model.positional import Places

Step = Callable[[], Tensor]  # -> logits (rows, vocab_size) of what lies in a frame
Record = Callable[[Step], Step]  # raises RuntimeError
Notify = Callable[[str], None]

FRAMES = 8  # with their graphs; the one that was not used for longest goes first
SHORTEST = 128  # positions that a step attends to at least; a step for each power of two from there on
WARM_UPS = 3  # steps before a recording, in which libraries choose their kernels; as PyTorch's documentation
LARGEST_DIFFERENCE = 1e-3  # of a recorded step's logits, as a share of their spread


class Frame:
    """Keys and values of at most `rows` texts, what they read next, and the steps that were recorded over them."""

    def __init__(self, config: ModelConfig, rows: int, device: torch.device, dtype: torch.dtype):
        shape = (rows, config.kv_heads, config.block_size, config.head_width)
        self.rows = rows
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.tokens, self.places = self.inputs = torch.zeros(2, rows, dtype=torch.int64, device=device)
        self.steps: dict[int, Step] = {}  # by how many positions they attend to
        self._holder: weakref.ref[KVCache] | None = None
        self._views: list[Tensor] = []

    def holds(self, cache: KVCache) -> bool:
        """Whether the rows of `cache` lie here: rows that are chosen or join get tensors of their own."""
        return self._holder is not None and self._holder() is cache and cache.keys is self._views

    @property
    def is_free(self) -> bool:
        holder = None if self._holder is None else self._holder()
        return holder is None or not self.holds(holder)

    def take(self, cache: KVCache) -> None:
        """The rows of `cache` lie here from now on."""
        count, end = len(cache.lengths), cache.length
        for kept, rows in zip([*self.keys, *self.values], [*cache.keys, *cache.values], strict=True):
            kept[:count, :, :end] = rows[:, :, :end]
        cache.keys = self._views = [keys[:count] for keys in self.keys]
        cache.values = [values[:count] for values in self.values]
        self.inputs[:, count:] = 0  # the other rows compute too, whatever they hold
        self._holder = weakref.ref(cache)


class FrameCache:
    """A frame as the cache of TorchStep, which attends to its first `reach` positions."""

    visible: Tensor

    def __init__(self, frame: Frame, reach: int):
        self.keys = [keys[:, :, :reach] for keys in frame.keys]
        self.values = [values[:, :, :reach] for values in frame.values]
        self.places = frame.places
        self.rows = torch.arange(frame.rows, device=frame.places.device)
        self.positions = torch.arange(reach, device=frame.places.device)

    def reserve(self, count: int) -> Places:
        places: Tensor = self.places[:, None]  # (rows, 1)
        self.visible = self.positions <= places[:, None, :, None]  # (rows, 1, 1, reach)
        return places

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (rows, n_kv_head, 1, head_dim) to their places -> the keys and values of `reach` positions."""
        keys, values = self.keys[layer], self.values[layer]
        keys[self.rows, :, self.places] = k[:, :, 0]
        values[self.rows, :, self.places] = v[:, :, 0]
        return keys, values

    def advance(self, count: int) -> None:
        """The cache whose rows lie in the frame counts them."""


class RecordedStep:
    """The step of `one_token`, recorded by `record` once for a number of texts and positions, each a power of two."""

    def __init__(self, one_token: TorchStep, record: Record, notify: Notify):
        self.one_token, self.record, self.notify = one_token, record, notify
        self.frames: list[Frame] = []  # the last one was used last
        self.is_recorded = True  # False once a recording failed

    def logits(self, tokens: npt.NDArray[np.int64], cache: KVCache) -> Tensor:
        """tokens (B,), one for each row of `cache`, which then holds them -> (B, vocab_size), until the next step."""
        frame, reach = self._frame(cache), self._reach(cache.length + 1)
        frame.inputs[:, : len(tokens)] = torch.from_numpy(np.stack([tokens, np.array(cache.lengths)]))
        step = frame.steps.get(reach) or self._recorded(frame, reach)
        logits = step()[: len(tokens)]
        cache.advance(1)
        return logits

    def _reach(self, length: int) -> int:
        """How many positions a step attends to that has to see `length`."""
        return min(max(SHORTEST, power_of_two(length)), self.one_token.config.block_size)

    def _frame(self, cache: KVCache) -> Frame:
        """The frame in which the rows of `cache` lie, moved there if need be."""
        rows = power_of_two(len(cache.lengths))
        frame = next((frame for frame in self.frames if frame.holds(cache)), None)
        if frame is None:
            frame = next((frame for frame in self.frames if frame.rows == rows and frame.is_free), None)
            frame = frame or Frame(self.one_token.config, rows, cache.keys[0].device, cache.keys[0].dtype)
            frame.take(cache)
        self.frames = [*(other for other in self.frames if other is not frame), frame][-FRAMES:]
        return frame

    def _recorded(self, frame: Frame, reach: int) -> Step:
        cache, one_token, tokens = FrameCache(frame, reach), self.one_token, frame.tokens

        def step() -> Tensor:
            logits: Tensor = one_token.model.head(one_token.hidden(tokens, cache)).float()
            return logits

        frame.steps[reach] = self._checked(step) if self.is_recorded else step
        return frame.steps[reach]

    def _checked(self, step: Step) -> Step:
        """`step` recorded; itself where that fails. A step may be computed again: it writes the same to its places."""
        try:
            recorded = self.record(step)
            expected = step()
            difference = (recorded() - expected).square().mean().sqrt() / expected.std(correction=0).clamp(min=1e-6)
            if difference > LARGEST_DIFFERENCE:  # not where the model itself computes NaN
                raise RuntimeError(f"its logits differ from the model's by {difference:.1g} of their spread")
        except RuntimeError as error:
            self.is_recorded = False
            self.notify(f"decoding without a CUDA graph: {str(error).partition(chr(10))[0]}")
            return step
        return recorded


def record_on(device: str) -> Record | None:
    """What records a step on `device`; None where torch has nothing that does."""
    return on_cuda if torch.device(device).type == "cuda" else None


def on_cuda(step: Step) -> Step:
    """`step` as a CUDA graph. Other threads may go on to use the GPU meanwhile."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            step()
    here.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits = step()

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


def power_of_two(least: int) -> int:
    """The smallest one that is at least `least`."""
    power: int = 1 << (least - 1).bit_length()
    return power
