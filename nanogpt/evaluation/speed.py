"""How fast a model reads a prompt and writes text, and what share of the memory's speed that uses."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from nanogpt import device as devices
from nanogpt.decoders.protocol import Decoder
from nanogpt.decoders.recorded_step import record_on
from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.inference.options import Options
from nanogpt.inference.sampling import Sampler, choose
from nanogpt.model.gpt import GPT
from nanogpt.results.evaluation import DecodingSpeed


@dataclass(frozen=True)
class Timing:
    """Medians of one text at a time; `new_tokens` were timed."""

    tokens_per_second: float
    prefill_tokens_per_second: float
    prompt_tokens: int
    new_tokens: int


def timing(decoder: Decoder, max_seconds: float) -> Timing:
    """Measure a decoder for max_seconds, after as long at most, unmeasured, on one window. Sampling is part of it."""
    config = decoder.config
    prompt_tokens = max(1, config.block_size // 2)
    prompt = np.random.default_rng(0).integers(config.vocab_size or 1, size=prompt_tokens).tolist()
    prefills: list[float] = []
    steps: list[float] = []
    _window(decoder, prompt, deadline=time.perf_counter() + max_seconds)
    deadline = time.perf_counter() + max_seconds
    while not prefills or time.perf_counter() < deadline:
        prefill_seconds, written = _window(decoder, prompt, deadline)
        prefills.append(prefill_seconds)
        steps += written
    return Timing(1 / statistics.median(steps), prompt_tokens / statistics.median(prefills), prompt_tokens, len(steps))


def decoding_speed(model: GPT, device: str, max_seconds: float) -> DecodingSpeed:
    """timing() of torch, with what it reads and needs."""
    devices.reset_peak_memory(device)
    found = timing(TorchDecoder(model, device, record_on(device)), max_seconds)
    weight_bytes = bytes_per_token(model)
    return DecodingSpeed(
        tokens_per_second=found.tokens_per_second,
        prefill_tokens_per_second=found.prefill_tokens_per_second,
        prompt_tokens=found.prompt_tokens,
        new_tokens=found.new_tokens,
        weight_bytes=weight_bytes,
        achieved_bytes_per_second=weight_bytes * found.tokens_per_second,
        device=device,
        peak_memory_bytes=devices.peak_memory(device),
        threads=torch.get_num_threads(),
    )


def bytes_per_token(model: GPT) -> int:
    """Bytes of the weights that one token reads: all but the tables of which it takes a row."""
    looked_up = {id(parameter) for parameter in model.embedding_parameters()} - {id(model.head.weight)}
    return sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in looked_up)


def _window(decoder: Decoder, prompt: list[int], deadline: float) -> tuple[float, list[float]]:
    """Seconds to read the prompt, and of each token written behind it until the window is full or the time is up."""
    sampler, cache = Sampler(Options(temperature=1.0, seed=0), ()), decoder.new_cache()
    start = time.perf_counter()
    token = choose(decoder.prefill([prompt], cache), [sampler])  # (1,); the device has finished then
    prefill_seconds = time.perf_counter() - start
    steps: list[float] = []
    while cache.lengths[0] < decoder.config.block_size and (not steps or time.perf_counter() < deadline):
        start = time.perf_counter()
        token = choose(decoder.step(np.array(token), cache), [sampler])
        steps.append(time.perf_counter() - start)
    return prefill_seconds, steps
