"""A short training that gives a pruned model back what it lost."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from nanogpt.config import Config, DeviceConfig, TrainingConfig
from nanogpt.data.shards import read_manifest
from nanogpt.export import huggingface
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.training.trainer import train
from nanogpt.weights.folders import open_trained

PREFIX = ".recovery-"
FOREVER = 10**6  # steps: the clock ends it
# Half the peaks of a training from scratch, which disturb what is there: micro (1,568 steps on tiny Shakespeare, 2.342
# bits per byte) without a quarter of its heads and rows has 2.503, after 300 of these steps 2.371, at twice the peaks
# 2.388.
TRAINING = TrainingConfig(
    batch_size=12,
    max_iters=FOREVER,
    warmup_iters=10,
    muon_learning_rate=0.01,
    learning_rate=0.005,
    embedding_learning_rate=0.025,
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
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=scratch) as place:
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


def remove_leftovers(scratch: Path) -> None:
    """What recoveries that were killed have left below `scratch`."""
    for folder in scratch.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
