"""Prove the parts of the model on a device, in seconds, before hours are spent on it.

Each check measures one figure and compares it with a limit; the shapes are tiny, because a wrong mask or a wrong
kernel is wrong at any size. Figures that should be zero have limits some tens of times what float32 rounding gives.
"""

import copy
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.model.attention import Attention, KVCache
from nanogpt.model.gpt import GPT
from nanogpt.model.norm import make_norm
from nanogpt.model.positional import Rotary, rotate
from nanogpt.results.machine import ComponentCheck
from nanogpt.training.update.gradients import gradient_of
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.weights import checkpoint

PRESETS = ("gpt2", "modern")
VOCAB_SIZE = 65


def check(
    name: str, measured: float, limit: float, unit: str, explanation: str, group: str = "component"
) -> ComponentCheck:
    """A figure against its limit. One that is not finite becomes the largest float: JSON knows no NaN."""
    kept = measured if math.isfinite(measured) else sys.float_info.max
    return ComponentCheck(name, measured <= limit, kept, limit, unit, explanation, group)


def run_checks(device: str = "cpu", seed: int = 0) -> list[ComponentCheck]:
    """Every check on `device`. Raises what the device raises when it cannot compute at all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at these shapes threads only wait for one another: 0.7 s, 24 s on a busy machine
    try:
        return [found for measure in CHECKS for found in measure(device, seed)]
    finally:
        torch.set_num_threads(threads)


def causal_mask(device: str, seed: int) -> list[ComponentCheck]:
    """Change the second half of the tokens: no logit of the first half may move."""
    changes = []
    for model, tokens in _models_and_tokens(device, seed):
        half = tokens.size(1) // 2
        changed = tokens.clone()
        changed[:, half:] = (changed[:, half:] + 1) % VOCAB_SIZE
        with torch.no_grad():
            changes.append(_difference(model(tokens)[0][:, :half], model(changed)[0][:, :half]))
    explanation = "other tokens in the future leave the logits of the past as they are"
    return [check("causal mask", _worst(changes), 1e-5, "largest change of a logit", explanation)]


def attention_reference(device: str, seed: int) -> list[ComponentCheck]:
    """Attention against loops over heads in float64 on the CPU, with QK-norm, rotation and shared key heads."""
    config = _config("modern", n_kv_head=2)
    model = _randomised(config, seed)
    attention, rotary = model.layers[0].attention, model.rotary
    assert rotary is not None
    x = torch.randn(2, config.block_size, config.n_embd, generator=_generator(seed))
    with torch.no_grad():
        expected = _plain_attention(attention, x.double())
        model.to(device)
        found = attention(x.to(device), rotary(slice(config.block_size)))
    explanation = "attention with grouped heads, QK-norm and rotation equals a plain float64 computation"
    return [check("attention reference", _difference(found, expected), 1e-4, "largest difference", explanation)]


def norm_statistics(device: str, seed: int) -> list[ComponentCheck]:
    """Each position leaves LayerNorm with mean 0 and variance 1, RMSNorm with mean square 1."""
    x = (torch.randn(4, 16, 64, generator=_generator(seed)) * 3 + 5).to(device)
    with torch.no_grad():
        layer = make_norm("layernorm", 64, 1e-5, bias=True).to(device)(x).cpu().double()
        rms = make_norm("rmsnorm", 64, 1e-6, bias=False).to(device)(x).cpu().double()
    off = _worst([_largest(layer.mean(-1)), _largest(layer.var(-1, unbiased=False) - 1)])
    squares, unit = _largest(rms.square().mean(-1) - 1), "largest deviation"
    return [
        check("LayerNorm statistics", off, 1e-3, unit, "every position has mean 0 and variance 1"),
        check("RMSNorm statistics", squares, 1e-3, unit, "every position has mean square 1"),
    ]


def rotary_relativity(device: str, seed: int) -> list[ComponentCheck]:
    """The product of a rotated query and key depends on their distance alone."""
    count, shift, width = 16, 37, 32
    rotary = Rotary(width, count + shift, 10000.0).to(device)
    q, k = torch.randn(2, 1, width, generator=_generator(seed)).to(device)
    q, k = (x.expand(1, count, 1, width) for x in (q, k))  # the same vector at every position
    near, far = (
        rotate(q, rotary(places)).squeeze() @ rotate(k, rotary(places)).squeeze().T
        for places in (slice(count), slice(shift, shift + count))
    )
    moved = _difference(near, far)
    turned = _largest(near - near[0, 0])  # without any rotation all products are equal, and `moved` would be zero too
    measured = moved if turned > 0.1 else math.inf
    explanation = f"query-key products are the same {shift} positions later, and differ between distances"
    return [check("rotary relativity", measured, 1e-3, "largest change of a product", explanation)]


def gradients_reach(device: str, seed: int) -> list[ComponentCheck]:
    """After one backward pass no parameter is without a gradient."""
    missing = 0
    for model, tokens in _models_and_tokens(device, seed):
        model(tokens[:, :-1], tokens[:, 1:])[1].backward()
        missing += sum(p.grad is None or not p.grad.isfinite().all() or not p.grad.any() for p in model.parameters())
    explanation = "every parameter of both presets receives a finite gradient that is not zero"
    return [check("gradients reach every parameter", missing, 0, "parameters without a gradient", explanation)]


def weight_tying(device: str, seed: int) -> list[ComponentCheck]:
    """After a step the tied head is still the embedding, and it did move."""
    model = _randomised(_config("gpt2"), seed).to(device)
    tokens = _tokens(seed).to(device)
    before = model.token_embedding.weight.detach().clone()
    model(tokens, tokens)[1].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(gradient_of(parameter), alpha=0.1)
    apart = _difference(model.head.weight, model.token_embedding.weight)
    measured = apart if _difference(before, model.token_embedding.weight) > 0 else math.inf
    explanation = "embedding and head are one matrix before and after a step"
    return [check("weight tying", measured, 0, "largest difference", explanation)]


def initial_loss(device: str, seed: int) -> list[ComponentCheck]:
    """A model that knows nothing pays ln(vocab_size) a token."""
    off = []
    for preset in PRESETS:
        model = GPT(_config(preset), seed=seed).to(device)
        targets = _tokens(seed + 1).to(device)  # a tied head recognises its own input, so targets are other tokens
        with torch.no_grad():
            off.append(abs(model(_tokens(seed).to(device), targets)[1].item() - math.log(VOCAB_SIZE)))
    explanation = f"the loss before training is ln {VOCAB_SIZE} = {math.log(VOCAB_SIZE):.3f}"
    return [check("initial loss", _worst(off), 0.1, "nats from ln(vocabulary)", explanation)]


def cached_decoding(device: str, seed: int) -> list[ComponentCheck]:
    """Tokens read in pieces with the cache give the logits of the whole, and so do prompts of unequal lengths."""
    differences = []
    for model, tokens in _models_and_tokens(device, seed, n_kv_head=2):
        B, T = tokens.shape
        with torch.no_grad():
            whole = model(tokens)[0]  # (B, T, vocab_size)
            cache = KVCache(model.config, batch_size=B, device=device)
            pieces = tokens.split([7, 1, 4, *[1] * (T - 12)], dim=1)
            differences.append(_difference(torch.cat([model(p, cache=cache)[0] for p in pieces], dim=1), whole))
        lengths, rows = torch.arange(3, 3 + 2 * B, 2), torch.arange(B)
        decoder = TorchDecoder(model, device)
        rows_cache = decoder.new_cache()
        prompts = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
        logits = decoder.prefill(prompts, rows_cache)  # (B, vocab_size)
        for last in range(8):
            differences.append(_difference(torch.from_numpy(logits), whole[rows, lengths - 1 + last]))
            logits = decoder.step(tokens[rows, lengths + last].cpu().numpy(), rows_cache)
    explanation = "a prompt read in pieces, single tokens after it and prompts of unequal lengths give the full logits"
    return [check("cached decoding", _worst(differences), 1e-3, "largest difference of a logit", explanation)]


def checkpoint_round_trip(device: str, seed: int) -> list[ComponentCheck]:
    """What is saved comes back to the bit."""
    model = _randomised(_config("modern"), seed).to(device)
    other = GPT(model.config, seed=seed + 1).to(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        checkpoint.save(path, model, step=1, facts={})
        checkpoint.put_weights(other, checkpoint.load(path).weights, str(path))
    changed = sum(int((a != b).sum()) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    explanation = "a model written to the disk and read into another one is the same to the bit"
    return [check("checkpoint round trip", changed, 0, "numbers changed", explanation)]


def overfitting(device: str, seed: int) -> list[ComponentCheck]:
    """Both optimizers learn one batch by heart, in the trainer's own steps: gradients, their norm, clipping, update."""
    losses = []
    for preset, optimizer, rate in (("gpt2", "adamw", 3e-3), ("modern", "muon", 1e-2)):
        model = GPT(_config(preset), seed=seed).to(device)
        training = TrainingConfig(optimizer=optimizer, learning_rate=rate, max_iters=60)
        updates = Optimizer(model, training)
        tokens = _tokens(seed).to(device)
        for _ in range(training.max_iters):
            updates.forget_gradients()
            model(tokens[:, :-1], tokens[:, 1:])[1].backward()
            updates.scale_gradients(min(1.0, training.grad_clip / updates.gradient_norm().item()))
            updates.step(1.0)
        with torch.no_grad():
            losses.append(model(tokens[:, :-1], tokens[:, 1:])[1].item())
    explanation = f"the loss on one batch falls from {math.log(VOCAB_SIZE):.2f} in 60 steps of AdamW and of Muon"
    return [check("overfits one batch", _worst(losses), 1.0, "nats per token", explanation)]


def device_parity(device: str, seed: int) -> list[ComponentCheck]:
    """Loss and gradients against the CPU's; on the CPU itself, float32 against float64.

    A batch of another shape goes first: kernels that cache a plan or a graph by shape (MPS) fail at the second one.
    """
    losses: list[float] = []
    gradients: list[float] = []
    for preset in PRESETS:
        exact = _randomised(_config(preset), seed)
        tested = copy.deepcopy(exact).to(device)
        reference = exact.double() if device == "cpu" else exact
        _loss_and_gradients(tested, _tokens(seed + 1)[:1, :9].to(device))
        expected, expected_gradients = _loss_and_gradients(reference, _tokens(seed))
        found, found_gradients = _loss_and_gradients(tested, _tokens(seed).to(device))
        losses.append(_difference(found, expected) / abs(float(expected)))
        gradients += map(_relative, found_gradients, expected_gradients)
    against = "float32 against float64 on the CPU" if device == "cpu" else f"{device} against the CPU"
    how, unit = f"{against}, after a warm-up at another shape", "relative difference"
    return [
        check("loss parity", _worst(losses), 2e-5, unit, f"the loss, {how}", "device"),
        check("gradient parity", _worst(gradients), 1e-2, unit, f"the gradient that differs most, {how}", "device"),
    ]


CHECKS: tuple[Callable[[str, int], list[ComponentCheck]], ...] = (
    causal_mask,
    attention_reference,
    norm_statistics,
    rotary_relativity,
    gradients_reach,
    weight_tying,
    initial_loss,
    cached_decoding,
    checkpoint_round_trip,
    overfitting,
    device_parity,
)


def _config(preset: str, **options: int | None) -> ModelConfig:
    shape = dict(preset=preset, n_layer=2, n_head=4, n_embd=64, block_size=32, vocab_size=VOCAB_SIZE)
    return ModelConfig.model_validate({**shape, **options})


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _tokens(seed: int) -> Tensor:
    return torch.randint(VOCAB_SIZE, (4, 32), generator=_generator(seed))


def _randomised(config: ModelConfig, seed: int) -> GPT:
    """A model without weights of zero or one, so that each of them matters."""
    model, generator = GPT(config, seed=seed), _generator(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def _models_and_tokens(device: str, seed: int, n_kv_head: int | None = None) -> Iterator[tuple[GPT, Tensor]]:
    for preset in PRESETS:
        yield _randomised(_config(preset, n_kv_head=n_kv_head), seed).to(device), _tokens(seed).to(device)


def _plain_attention(attention: Attention, x: Tensor) -> Tensor:
    """x (B, T, n_embd) float64: attention as the formula reads, one head and one position at a time."""
    T = x.size(1)
    width = attention.head_dim
    wq, wk, wv = attention.qkv.weight.double().split(attention.row_blocks)
    q, k, v = (x @ w.T for w in (wq, wk, wv))  # (B, T, heads * width)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * 10000.0 ** (-torch.arange(0, width, 2).double() / width)

    def head(of: Tensor, index: int) -> Tensor:
        return of[..., index * width : (index + 1) * width]

    def prepared(part: Tensor, weight: Tensor) -> Tensor:
        part = part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
        planes = torch.complex(part[..., : width // 2], part[..., width // 2 :])
        turned = planes * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], dim=-1)

    assert attention.q_norm is not None and attention.k_norm is not None
    heads = []
    for index in range(attention.n_head):
        shared = index // (attention.n_head // attention.n_kv_head)
        query = prepared(head(q, index), attention.q_norm.weight)
        key = prepared(head(k, shared), attention.k_norm.weight)
        rows = [
            (query[:, t, None] @ key[:, : t + 1].mT / math.sqrt(width)).softmax(-1) @ head(v, shared)[:, : t + 1]
            for t in range(T)
        ]
        heads.append(torch.cat(rows, dim=1))
    y: Tensor = torch.cat(heads, dim=-1) @ attention.output.weight.double().T  # (B, T, n_embd)
    return y


def _loss_and_gradients(model: GPT, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    _, loss = model(tokens[:, :-1], tokens[:, 1:])
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def _worst(figures: list[float]) -> float:
    """The largest, or NaN when one of them is NaN: Python's max() passes over it."""
    return float(torch.tensor(figures, dtype=torch.float64).max())


def _largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


def _difference(found: Tensor, expected: Tensor) -> float:
    return _largest(found.detach().cpu().double() - expected.detach().cpu().double())


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = found.cpu().double() - expected.cpu().double()
    return float(difference.norm() / expected.cpu().double().norm())
