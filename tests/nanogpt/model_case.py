"""Small models for tests. Not a test itself, so that it needs nothing but the runtime dependencies."""

from pathlib import Path

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


def nanogpt_checkpoint(path: Path, model: GPT, prefix: str = "", **changes) -> Path:
    """The file that nanoGPT's train.py writes for a model of these weights."""
    tensors = {
        "transformer.wte.weight": model.token_embedding.weight, "lm_head.weight": model.head.weight,
        "transformer.wpe.weight": model.position_embedding.weight, "transformer.ln_f.weight": model.final_norm.weight,
    }  # fmt: skip
    names = {"attention_norm": "ln_1", "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj",
             "feedforward_norm": "ln_2", "feedforward.up": "mlp.c_fc", "feedforward.down": "mlp.c_proj"}  # fmt: skip
    modules = {f"transformer.h.{layer}.{theirs}": block.get_submodule(ours)
               for layer, block in enumerate(model.blocks) for ours, theirs in names.items()}  # fmt: skip
    for name, module in {**modules, "transformer.ln_f": model.final_norm}.items():
        tensors[f"{name}.weight"] = module.weight
        if module.bias is not None:
            tensors[f"{name}.bias"] = module.bias
    shape = {key: getattr(model.config, key)
             for key in ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")}  # fmt: skip
    content = {
        "model": {prefix + name: tensor.detach() for name, tensor in tensors.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}]},
        "model_args": shape, "iter_num": 3, "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "device": "cpu", "compile": False, "learning_rate": 1e-3},
    }  # fmt: skip
    torch.save({**content, **changes}, path)
    return path
