"""Models of every shape that a configuration can express, and a decoder of each backend for them. Not a test itself."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from hypothesis import strategies as st

from nanogpt.config import ModelConfig
from nanogpt.decoders.c_decoder import CDecoder
from nanogpt.decoders.ort_decoder import OrtDecoder
from nanogpt.decoders.protocol import Decoder
from nanogpt.decoders.torch_decoder import TorchDecoder
from nanogpt.model.gpt import GPT
from nanogpt.weights.checkpoint import named_tensors
from nanogpt.weights.safe_loading import Array

BACKENDS: dict[str, Callable[[GPT, int], Decoder]] = {
    "torch": lambda model, threads: TorchDecoder(model),
    "onnxruntime": lambda model, threads: OrtDecoder(model.config, arrays_of(model), threads),
    "c": lambda model, threads: CDecoder(model.config, arrays_of(model), threads),
}

SHAPES = st.fixed_dictionaries({
    "preset": st.sampled_from(["gpt2", "modern"]), "norm": st.sampled_from(["layernorm", "rmsnorm"]),
    "position": st.sampled_from(["learned", "rope"]), "qk_norm": st.booleans(), "bias": st.booleans(),
    "tie_weights": st.booleans(), "embedding_norm": st.booleans(),
    "activation": st.sampled_from(["gelu", "gelu_erf", "relu2", "swiglu"]),
    "n_kv_head": st.sampled_from([1, 2, 4]), "ffn_dim": st.sampled_from([1, 40, 97]),
    "n_embd": st.sampled_from([20, 64]), "vocab_size": st.sampled_from([3, 50]), "block_size": st.sampled_from([9, 70]),
})  # fmt: skip
WIDTHS = {"onnxruntime": st.just(16), "torch": st.sampled_from([2, 16, 40]), "c": st.sampled_from([2, 16, 40])}


def arrays_of(model: GPT) -> Mapping[str, Array]:
    return {name: tensor.numpy() for name, tensor in named_tensors(model).items()}


def shape(options: dict, head_dim: int) -> ModelConfig:
    scale = 2.0 if options["position"] == "rope" and options["bias"] else 1.0
    return ModelConfig(n_layer=2, n_head=4, head_dim=head_dim, position_scale=scale, **options)


def expected_logits(model: GPT, tokens: list[int]) -> np.ndarray:
    """(T, vocab_size), of the whole forward pass."""
    with torch.inference_mode():
        return model(torch.tensor([tokens]))[0][0].numpy()


def some_text(config: ModelConfig, seed: int) -> list[int]:
    """block_size tokens."""
    return np.random.default_rng(seed).integers(config.vocab_size, size=config.block_size).tolist()


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-4 of the logits' spread: float32's rounding, in another order of summation."""
    assert found.dtype == np.float32 and found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * max(1.0, expected.std())
