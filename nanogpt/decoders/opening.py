"""A model on disk as a decoder that is ready, on the backend that is fastest here; torch is imported for its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanogpt.decoders.choosing import FAST, Task, fastest
from nanogpt.decoders.protocol import Decoder, Precision
from nanogpt.faults import UserError, nearest
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights.source import Source
from nanogpt.weights.sources import source_at, tokenizer_of

BACKENDS = ("auto", "measure", "torch", *FAST)
Notify = Callable[[str], None]


@dataclass(frozen=True)
class OpenedModel:
    """`path`: where it lies."""

    decoder: Decoder
    tokenizer: Tokenizer
    path: Path


def open_decoder(
    path: Path | str,
    device: str = "cpu",
    backend: str = "auto",
    notify: Notify = lambda message: None,
    precision: Precision = "float32",
) -> OpenedModel:
    """The model in an exported folder, or of the best checkpoint in a training folder, on `device`.

    backend "auto": the fastest on this machine of "c" and "onnxruntime", "torch" where neither can decode it, and on
    another device than the CPU. The choice is measured once for a model and machine, with "measure" again; `notify`
    gets each backend that was passed over, and why, and that a decoder is being built. precision "int8": weights in
    blocks of 32, for "c" and "onnxruntime".
    Raises UserError naming what is missing or what a forced backend lacks, CorruptFileError when a file is not what was
    written.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend}: allowed are {', '.join(BACKENDS)}{nearest(backend, BACKENDS)}")
    source = source_at(path)
    tokenizer = tokenizer_of(source)
    if device != "cpu" and backend in FAST:
        raise UserError(f"backend {backend}: computes on the CPU alone, not on {device}")
    if device != "cpu" or backend == "torch":
        if precision != "float32":
            where = "backend torch" if device == "cpu" else f"device {device}"
            raise UserError(f"precision {precision}: not with {where}; allowed is float32, or on the cpu the backends "
                            f"auto, {' and '.join(FAST)}")  # fmt: skip
        decoder = _torch(source, device, notify)
    else:
        decoder = _fast(source, backend, notify, precision)
    return OpenedModel(decoder, tokenizer, source.path)


def _fast(source: Source, backend: str, notify: Notify, precision: Precision) -> Decoder:
    backends = [backend] if backend in FAST else list(FAST)
    reasons: list[str] = []
    task = Task(source.config, source.arrays(), source.digest(), precision, backends)
    found = fastest(task, reasons.append, notify, anew=backend == "measure")
    if found is None and backend in FAST:
        raise UserError(f"backend {backend}: {reasons[-1].partition(': ')[2]}")
    if found is None and precision != "float32":
        raise UserError(f"precision {precision}: {' and '.join(FAST)} cannot be used here; allowed is float32 "
                        f"({'; '.join(reasons)})")  # fmt: skip
    if found is None or found.name != backends[0]:  # otherwise the first choice computes, and nothing was lost
        for reason in reasons:
            notify(reason)
    return found if found is not None else _torch(source, "cpu", notify)


def _torch(source: Source, device: str, notify: Notify) -> Decoder:
    from nanogpt.decoders.recorded_step import record_on
    from nanogpt.decoders.torch_decoder import TorchDecoder  # 1.5 s that the others do not need
    from nanogpt.weights.folders import model_of

    return TorchDecoder(model_of(source), device, record_on(device), notify)
