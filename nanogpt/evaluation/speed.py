"""How fast a model reads a prompt and writes text, and what share of the memory's speed that uses."""

import statistics
import time

import torch

from nanogpt import device as devices
from nanogpt.inference.engine import Engine
from nanogpt.inference.sampling import sample
from nanogpt.model.attention import KVCache


def decoding_speed(engine: Engine, prompt_tokens: int | None = None, max_seconds: float = 3.0) -> dict:
    """Measure batch 1 with a KV cache for max_seconds, after as long at most, unmeasured, on one window.

    Returns tokens_per_second (median written token, sampling included), prefill_tokens_per_second (median), the
    tokens counted, weight_bytes read for each token, and achieved_bytes_per_second = weight_bytes x tokens_per_second:
    at batch 1 decoding is bound by reading the weights (gpt-fast), so this is what compares across machines.
    """
    block_size = engine.model.config.block_size
    prompt_tokens = prompt_tokens or max(1, block_size // 2)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(engine.model.config.vocab_size, (prompt_tokens,), generator=generator).tolist()
    prefills, steps = [], []
    _window(engine, prompt, generator, deadline=time.perf_counter() + max_seconds)
    deadline = time.perf_counter() + max_seconds
    while not prefills or time.perf_counter() < deadline:
        prefill, written = _window(engine, prompt, generator, deadline)
        prefills.append(prefill)
        steps += written
    tokens_per_second = 1 / statistics.median(steps)
    weight_bytes = bytes_per_token(engine.model)
    return {
        "tokens_per_second": tokens_per_second,
        "prefill_tokens_per_second": prompt_tokens / statistics.median(prefills),
        "prompt_tokens": prompt_tokens,
        "new_tokens": len(steps),
        "weight_bytes": weight_bytes,
        "achieved_bytes_per_second": weight_bytes * tokens_per_second,
        "device": engine.device,
    }


def bytes_per_token(model: torch.nn.Module) -> int:
    """Bytes of the weights that one token reads: all but the tables of which it takes a row."""
    looked_up = {id(parameter) for parameter in model.embedding_parameters()} - {id(model.head.weight)}
    return sum(p.numel() * p.element_size() for p in model.parameters() if id(p) not in looked_up)


def _window(engine: Engine, prompt: list[int], generator, deadline: float) -> tuple[float, list[float]]:
    """Seconds to read the prompt, and of each token written behind it until the window is full or the time is up."""
    cache = KVCache(engine.model.config, device=engine.device)
    devices.synchronize(engine.device)
    start = time.perf_counter()
    token = sample(engine.read(prompt, cache), generator, temperature=1.0)
    prefill, steps = time.perf_counter() - start, []
    while cache.length < cache.max_len and (not steps or time.perf_counter() < deadline):
        start = time.perf_counter()
        token = sample(engine.read([token], cache), generator, temperature=1.0)
        steps.append(time.perf_counter() - start)
    return prefill, steps
