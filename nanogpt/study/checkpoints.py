"""The same model at other times of its training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nanogpt.config import load_config
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.weights.checkpoint import step_of, steps_in
from nanogpt.weights.folders import model_of
from nanogpt.weights.trained_folder import CONFIG, TrainedFolder


def models_of_training(place: str) -> Iterator[tuple[int, GPT]]:
    """(step, model) of each checkpoint that the training folder `place` keeps, by step; first, at step 0, the weights
    that its seed gives, unless it began with others. Nothing for any other place. Raises CorruptFileError."""
    folder = Path(place).expanduser()
    checkpoints = list(steps_in(folder / "checkpoints"))
    if not (folder / CONFIG).is_file() or not checkpoints:
        return
    training = load_config(folder / CONFIG).training
    if training.lora_rank:  # its checkpoints hold adapters alone
        return
    if training.init_from is None and step_of(checkpoints[0]):
        yield 0, GPT(TrainedFolder(checkpoints[0]).config, training.seed).eval()
    for checkpoint in checkpoints:
        try:
            yield step_of(checkpoint), model_of(TrainedFolder(checkpoint))
        except UserError:  # it was replaced by a newer one meanwhile
            continue
