"""A short training that gives a pruned model back what it lost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from nanogpt.config import Config, DeviceConfig, TrainingConfig
from nanogpt.data.shards import read_manifest
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.export import huggingface
from nanogpt.model.gpt import GPT
from nanogpt.training.trainer import train
from nanogpt.weights.folders import open_trained

FOREVER = 10**6  # steps: the clock ends it
# A model that has learned is disturbed by the peaks of a training from scratch. Micro with a quarter of its heads and
# rows gone, 10 s on two cores, validation bits per byte: see docs in bench/; chosen by trying peaks 1, 1/2, 1/4, 1/8.
TRAINING = TrainingConfig(
    batch_size=12,
    max_iters=FOREVER,
    warmup_iters=10,
    muon_learning_rate=0.01,
    learning_rate=0.003,
    embedding_learning_rate=0.01,
    decay_fraction=1.0,
    eval_interval=FOREVER,
    sample_interval=0,
    log_interval=100,
    checkpoint_interval=FOREVER,
    checkpoint_minutes=60.0,
    keep_checkpoints=3,
)


def recovered(
    model: GPT,
    tokenizer: Tokenizer,
    data_folder: Path,
    seconds: float,
    device: str = "cpu",
    scratch: Path | None = None,
) -> GPT:
    """`model` after `seconds` of training on the training split: the ordinary trainer, begun with these weights.

    Its checkpoints are in a folder below `scratch` that is removed. Raises what train() raises.
    """
    with tempfile.TemporaryDirectory(prefix=".recovery-", dir=scratch) as place:
        begin, folder = Path(place) / "begin", Path(place) / "training"
        huggingface.export(model, tokenizer, begin)
        config = Config(
            name="recovery",
            model={"preset": model.config.preset, "block_size": model.config.block_size},
            training=TRAINING.model_copy(update={"init_from": str(begin)}),
            data={"tokenizer": read_manifest(data_folder).tokenizer.name},
            device=DeviceConfig(type=device, threads=torch.get_num_threads()),
        )
        train(config, data_folder, folder, max_seconds=seconds)
        return open_trained(folder)
