"""All that the next step depends on, in one object: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from nanogpt.config import Config, TrainingConfig
from nanogpt.model.gpt import GPT
from nanogpt.training.numerics import TORCH, Numerics
from nanogpt.training.progress import Progress
from nanogpt.training.record.recorder import Recorder
from nanogpt.training.update.averaging import WeightAverage
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.weights import checkpoint


@dataclass
class TrainingState:
    """Weights, moments, average, progress; the random generators are the process's own.

    Settings and data decide the rest, so two states with the same state_dict() continue to the same bytes.
    """

    model: GPT
    optimizer: Optimizer
    average: WeightAverage | None
    progress: Progress
    device: str

    @classmethod
    def at_start(cls, config: Config, numerics: Numerics, record: Recorder, fresh: bool = True) -> TrainingState:
        """Before the first step. Unless `fresh`, weights from elsewhere are read only where a checkpoint lacks them."""
        torch.manual_seed(config.training.seed)  # dropout's generator; the model has its own
        model = _model(config, record, fresh)
        set_up(model, numerics)
        model.gradient_checkpointing = config.device.gradient_checkpointing
        model.choose_attention(numerics.attention)
        optimizer = Optimizer(model, config.training, getattr(torch, numerics.newton_schulz))
        average = _average(optimizer, config.training)
        return cls(model, optimizer, average, Progress.at_start(config), numerics.device)

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers, lists and dictionaries only, loadable with weights_only.

        "weights": every trained parameter by name, float32 on the CPU.
        """
        return {
            "weights": checkpoint.named_tensors(self.model),
            "progress": self.progress.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "random": checkpoint.random_state(self.device),
        }

    def load_state_dict(self, state: Mapping[str, Any], where: str = "this state") -> None:
        """Take over what state_dict() gave. Raises UserError, naming `where`, when it is of another architecture."""
        checkpoint.put_weights(self.model, state["weights"], where)
        self.progress = Progress.from_state_dict(state["progress"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        checkpoint.restore_random_state(state["random"], self.device)


def set_up(model: GPT, numerics: Numerics) -> None:
    """Put `model` where it is trained, computed by what `numerics` says."""
    model.to(numerics.device).train()
    if numerics.kernels != TORCH:
        model.use_kernels()


def _model(config: Config, record: Recorder, fresh: bool) -> GPT:
    """The checkpoints of adapters hold nothing else, so the weights under them are read again at each start."""
    training = config.training
    model = GPT(config.model, seed=training.seed)
    if training.init_from is not None and (fresh or training.lora_rank):
        from nanogpt.training.initial_weights import put_initial_weights  # most trainings start from scratch

        record.event("initial weights", put_initial_weights(model, config))
    if training.lora_rank:
        from nanogpt.model.lora import add_adapters

        add_adapters(model, training.lora_rank, training.lora_alpha, training.seed)
    return model


def _average(optimizer: Optimizer, config: TrainingConfig) -> WeightAverage | None:
    return WeightAverage(optimizer.parameters, config.weight_average) if config.weight_average else None
