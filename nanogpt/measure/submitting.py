"""The figures of a submission (nanogpt.measure.submission), measured here: a process of its own for what may abort.

Whatever a device does with a way that it cannot compute, the file is written: the row says that it failed.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt import __version__
from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.energy_meters import meters
from nanogpt.kernels.conditions import kernels_compute_blocks
from nanogpt.machine import memory_bytes, physical_cores, processor_name
from nanogpt.measure.profiler import WARM_UP_STEPS, Stopwatch, settle
from nanogpt.measure.real_step import RealStep
from nanogpt.measure.submission import (
    DecodingFigures,
    Device,
    Precision,
    PrecisionFigures,
    StepFigures,
    Submission,
    SubmittedMachine,
    Way,
)
from nanogpt.model.gpt import GPT
from nanogpt.process.worker import Worker, WorkerDied
from nanogpt.training import parity
from nanogpt.training.numerics import TORCH, choose_kernels
from nanogpt.training.update.muon import orthogonalize

PATIENCE = 300.0  # seconds for one row; torch.compile took 18 to 40 on two cores
TIMED_PARTS = 3  # steps of which the parts are timed
DECODED_TOKENS = 48
MATRICES = (8, 512, 1408)  # that are orthogonalised on their own
PRECISIONS: dict[Device, tuple[Precision, ...]] = {
    "cpu": ("float32", "bfloat16"), "mps": ("float32", "bfloat16", "float16"), "cuda": ("float32", "bfloat16"),
}  # fmt: skip
LARGER = 4  # times the micro-batch, in the rows that ask what a batch gains
OPERATOR = re.compile(r"aten::[\w.]+")


def submission(
    configs: list[Config], device: Device, seconds: float, compiled: bool, notify: Callable[[str], None]
) -> Submission:
    """Everything about `configs`, whose vocabularies are known, on `device`; about `seconds` of steps a row."""
    precisions, steps, decoding = [], [], []
    with TemporaryDirectory() as folder:
        worker = Worker(Path(folder) / "profile.log")
        try:
            for precision in PRECISIONS[device]:
                notify(f"products in {precision}")
                precisions.append(_asked(worker, "precision", PrecisionFigures(precision), device=device))
            for config in configs:
                for row in _rows(config, device, compiled):
                    notify(f"{config.name}: {row.way}, micro-batches of {row.micro_batch}")
                    steps.append(
                        _asked(worker, "step", row, device=device, config=config.model_dump(), seconds=seconds)
                    )
                notify(f"{config.name}: decoding")
                empty = DecodingFigures(config.name)
                decoding.append(_asked(worker, "decode", empty, device=device, config=config.model_dump()))
        finally:
            worker.close(kill=True)
    return Submission("nanogpt-profile", 1, this_machine(device), precisions, steps, decoding)


def _rows(config: Config, device: Device, compiled: bool) -> Iterator[StepFigures]:
    """Rows without figures: each precision by each attention, where it can be chosen; then, of each precision,
    Newton-Schulz in it, larger micro-batches and, where asked for, the compiler."""
    training = config.training

    def row(way: Way, larger: int = 1) -> StepFigures:
        micro_batch = larger * training.batch_size
        return StepFigures(config.name, 0, config.model.block_size, micro_batch, training.gradient_accumulation, way)

    for precision in PRECISIONS[device]:
        way = Way(precision)
        yield row(way)
        if not _kernels_attend(config, device, precision):
            yield row(replace(way, attention="products"))
        if precision != "float32" and training.optimizer == "muon":
            yield row(replace(way, newton_schulz=precision))
        yield row(way, LARGER)
        if compiled:
            yield row(replace(way, compiled=True))


def _kernels_attend(config: Config, device: Device, precision: Precision) -> bool:
    """Whether attention is the kernels' own here, whichever is asked for."""
    of_shape = kernels_compute_blocks(config.model.head_width)
    is_plain = not config.training.lora_rank and config.data.cross_documents
    return of_shape and is_plain and choose_kernels(config.device, device, precision)[0] != TORCH


def _asked(worker: Worker, function: str, empty: Any, device: str, **arguments: Any) -> Any:
    """`empty` as the worker fills it, or with the reason why it cannot."""
    try:
        return worker.call(f"{__name__}:{function}", device=device, empty=empty, timeout=PATIENCE, **arguments)
    except (WorkerDied, RuntimeError, TypeError, MemoryError, NotImplementedError) as error:
        return replace(empty, failed=reason(error))


def reason(error: BaseException) -> str:
    """What went wrong, in words that say nothing of a person: an error's own may name files and hosts."""
    if isinstance(error, WorkerDied):
        return f"its process ended: {error.symptom}"
    operators = OPERATOR.findall(str(error))
    return f"{type(error).__name__}{f' ({operators[0]})' if operators else ''}"


# ---- in the worker


def precision(empty: PrecisionFigures, device: str) -> PrecisionFigures:
    """Products, orthogonalisation and attention in one precision."""
    dtype: torch.dtype = getattr(torch, empty.precision)
    devices.configure(device, devices.physical_cores())
    matrices = torch.randn(MATRICES, device=device)

    def newton_schulz() -> None:
        orthogonalize(matrices, dtype)
        devices.synchronize(device)

    return replace(
        empty,
        product_flops=devices.matmul_rate(device, dtype),
        newton_schulz_ms=1e3 * _median_seconds(newton_schulz, 5),
        causal_error=causal_error(device, dtype),
    )


def causal_error(device: str, dtype: torch.dtype) -> float:
    """Of torch's causal attention without gradients, relative to the CPU's in float32."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 64, 64, generator=generator)
    with torch.no_grad():
        exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        q, k, v = (head.to(device, dtype) for head in (q, k, v))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return float((found.cpu().float() - exact).norm() / exact.norm())


def step(empty: StepFigures, device: str, config: dict[str, Any], seconds: float) -> StepFigures:
    """Real steps of one model in one way: their parts, then as they are."""
    way = empty.way
    whole = Config.model_validate(config).with_changes({
        "training.batch_size": empty.micro_batch, "device.type": device,
        "device.mixed_precision": False if way.precision == "float32" else way.precision,
        "device.attention": way.attention, "device.newton_schulz": way.newton_schulz,
    })  # fmt: skip
    device, _, precision = settle(whole)
    devices.reset_peak_memory(device)
    real = RealStep(whole, device, precision)
    *off, compiling = _deviation(real, way)
    if way.compiled:
        torch._dynamo.reset()
        setattr(real.model, "loss_sum", torch.compile(real.model.loss_sum, dynamic=False))  # noqa: B010  of this one
    first = _seconds(real.run)
    for _ in range(WARM_UP_STEPS):
        real.run()
    found, _ = meters()
    began = time.perf_counter()
    for meter in found:
        meter.since(0.0)
    times = [_seconds(real.run)]
    while sum(times) < seconds:
        times.append(_seconds(real.run))
    counted = time.perf_counter() - began
    joules = [used for meter in found if (used := meter.since(counted)) is not None]
    step_seconds = median(times)
    flops = whole.tokens_per_step / step_seconds * real.model.flops_per_token()
    return replace(
        empty,
        parameters=real.model.num_parameters(),
        threads=torch.get_num_threads() if device == "cpu" else None,
        ms={part: 1e3 * taken for part, taken in _parts(real).items()},
        step_ms=1e3 * step_seconds,
        tokens_per_second=whole.tokens_per_step / step_seconds,
        share_of_products=flops / devices.matmul_rate(device, getattr(torch, precision)),
        peak_memory_bytes=devices.peak_memory(device),
        first_step_seconds=compiling or first,
        loss_off=off[0],
        gradient_off=off[1],
        watts=sum(joules) / counted if joules else None,
    )


def _parts(real: RealStep) -> dict[str, float]:
    """Seconds of each part of a step, the device waited for around each."""
    watch = Stopwatch(real.device)
    if muon := real.optimizer.muon:
        setattr(muon, "step", watch.around("Muon", muon.step))  # noqa: B010  a method of this one object
    for _ in range(TIMED_PARTS):
        real.run(watch.part)
    return {part: taken / TIMED_PARTS for part, taken in watch.seconds.items()}


def _deviation(real: RealStep, way: Way) -> tuple[float | None, float | None, float | None]:
    """Of loss and gradient: from the CPU in float32, or, compiled, from the same way in eager mode; then also the
    seconds of the first compiled pass."""
    tokens, targets = real.feed.take((0, real.config.training.batch_size))
    if way.compiled:
        return _from_eager(real, tokens, targets)
    found = parity.compare(real.model, tokens, targets, real.precision, real.loss_scale)
    return (None, None, None) if found is None else (found.loss, found.gradient, None)


def _from_eager(real: RealStep, tokens: Tensor, targets: Tensor) -> tuple[float, float, float]:
    def passes(loss_sum: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> tuple[float, list[Tensor]]:
        with devices.autocast(real.device, real.precision):
            summed, number = loss_sum(tokens, targets)
        loss = summed / number
        gradients = torch.autograd.grad(loss, real.optimizer.parameters)
        return loss.item(), [gradient.float().cpu() for gradient in gradients]

    loss, gradients = passes(real.model.loss_sum)
    began = time.perf_counter()
    other, others = passes(torch.compile(real.model.loss_sum, dynamic=False))
    compiling = time.perf_counter() - began
    norms = [float(gradient.norm()) for gradient in gradients]
    least = parity.LEAST_SHARE * max(norms)
    off = max(
        float((one - two).norm()) / max(norm, least) for one, two, norm in zip(gradients, others, norms, strict=True)
    )
    return abs(other - loss) / loss, off, compiling


def decode(empty: DecodingFigures, device: str, config: dict[str, Any]) -> DecodingFigures:
    """Greedy decoding by torch, which takes one token after the other."""
    whole = Config.model_validate(config)
    devices.configure(device, whole.device.threads or devices.physical_cores())
    decoder = TorchDecoder(GPT(whole.model, seed=whole.training.seed), device)
    count = min(DECODED_TOKENS, whole.model.block_size - 1)

    def text() -> None:
        cache = decoder.new_cache()
        logits = decoder.prefill([[0]], cache)
        for _ in range(count):
            logits = decoder.step(np.asarray(logits).argmax(axis=-1), cache)

    return replace(empty, tokens_per_second=count / _median_seconds(text, 3))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _median_seconds(work: Callable[[], object], times: int) -> float:
    work()  # the first finds caches cold
    return median(_seconds(work) for _ in range(times))


# ---- the machine


def this_machine(device: Device) -> SubmittedMachine:
    """What `device` belongs to, as its makers call it: nothing here is a person's."""
    on_a_mac = sys.platform == "darwin"
    gpu = torch.cuda.get_device_name(0) if device == "cuda" else "Apple GPU" if device == "mps" else ""
    return SubmittedMachine(
        processor=(_said("sysctl", "-n", "machdep.cpu.brand_string") if on_a_mac else "") or processor_name(),
        cores=physical_cores(),
        gpu=gpu,
        gpu_cores=gpu_cores_of_mac(_said("system_profiler", "SPDisplaysDataType", "-json")) if on_a_mac else None,
        memory_bytes=memory_bytes(),
        system=f"macOS {platform.mac_ver()[0]}" if on_a_mac else platform.system(),
        architecture=platform.machine(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        nanogpt=__version__,
        device=device,
    )


def gpu_cores_of_mac(said: str) -> int | None:
    """Of `system_profiler SPDisplaysDataType -json`, which also names serial numbers and screens: none is kept."""
    try:
        displays = json.loads(said)["SPDisplaysDataType"]
        return next((int(display["sppci_cores"]) for display in displays if "sppci_cores" in display), None)
    except (ValueError, KeyError, TypeError):
        return None


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
