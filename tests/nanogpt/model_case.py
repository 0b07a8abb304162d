"""Small models for tests. Not a test itself, so that it needs nothing but the runtime dependencies."""

import torch

from nanogpt.config import ModelConfig
from nanogpt.model.gpt import GPT


def small(preset: str = "modern", **options) -> ModelConfig:
    shape = dict(n_layer=2, n_head=4, n_embd=32, block_size=16, vocab_size=50) | options
    return ModelConfig(preset=preset, **shape)


def randomised(config: ModelConfig, seed: int = 0) -> GPT:
    """A model none of whose weights is zero or one, so that each of them matters."""
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def some_tokens(config: ModelConfig, batch: int = 2, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, config.block_size), generator=generator)
