"""A smaller model that learns from a trained one: from all its probabilities, not from the next token alone.

Source: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network". The trainer knows one source of
targets, the text; here there are two, so the loop is its own: a clock, one optimizer, no checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpt import device as devices
from nanogpt.config import ModelConfig, TrainingConfig
from nanogpt.data.data_loader import Samples
from nanogpt.data.shards import open_split
from nanogpt.faults import NonFiniteError
from nanogpt.model.gpt import GPT
from nanogpt.training.numerics import native_precision
from nanogpt.training.update.optimizer import Optimizer

# Every other layer of micro (see recovery.py) has 3.557 bits per byte, after 300 of these steps 2.498; at half the
# peaks 2.538.
TRAINING = TrainingConfig(batch_size=12, muon_learning_rate=0.02, learning_rate=0.01, embedding_learning_rate=0.05)
WEIGHT_OF_TEACHER = 0.5  # of its distribution in the loss; the rest is the text's
WARM_UP = 0.05  # share of the time in which the learning rate rises; it falls in a straight line after that
MOST_LOGITS = 2**25  # of a model in one pass: 128 MiB
NORM = 1.0  # largest gradient norm


def student_shape(teacher: ModelConfig, ladder: ModelConfig | None = None) -> ModelConfig:
    """The shape of `ladder`, a smaller model, with the teacher's vocabulary and context; without one, half the
    teacher's layers."""
    if ladder is not None:
        return ladder.model_copy(update={"vocab_size": teacher.vocab_size, "block_size": teacher.block_size})
    return teacher.model_copy(update={"n_layer": max(1, teacher.n_layer // 2), "dropout": 0.0})


def student_of(teacher: GPT, shape: ModelConfig) -> GPT:
    """A model of `shape`; where it differs from the teacher in its layers alone, with every other layer of the teacher
    and all the rest of it (Sanh et al. 2019, DistilBERT), else with weights of its own."""
    student = GPT(shape)
    same_width = teacher.config.model_copy(update={"n_layer": shape.n_layer, "dropout": shape.dropout}) == shape
    if not same_width or shape.n_layer > teacher.config.n_layer:
        return student
    chosen = [round(layer * teacher.config.n_layer / shape.n_layer) for layer in range(shape.n_layer)]
    theirs = {name: tensor.detach().cpu() for name, tensor in teacher.state_dict().items()}
    student.load_state_dict({name: theirs[_in_teacher(name, chosen)] for name in student.state_dict()})
    return student


def _in_teacher(name: str, chosen: list[int]) -> str:
    if not name.startswith("blocks."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"blocks.{chosen[int(layer)]}.{rest}"


def distil(
    teacher: GPT,
    student: GPT,
    data_folder: Path,
    seconds: float,
    training: TrainingConfig,
    device: str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Train `student` for `seconds` on the training split, with the peaks and the batch of `training`; the steps taken.

    Raises UserError, CorruptFileError as open_split does, NonFiniteError when the loss is no number.
    """
    teacher.to(device).eval()
    student.to(device).train()
    window, vocab_size = student.config.block_size, student.head.out_features
    samples = Samples(open_split(data_folder, "train").tokens, window, training.seed)
    rows = max(1, min(training.sequences_per_step, MOST_LOGITS // (window * vocab_size)))
    precision, optimizer = native_precision(device), Optimizer(student, training)
    began, steps = clock(), 0
    while (passed := (clock() - began) / seconds) < 1:
        tokens, targets = (part.to(device) for part in samples.batch(steps * rows, rows))
        with devices.autocast(device, precision):
            loss = distillation_loss(teacher, student, tokens, targets)
        loss.backward()
        norm = float(optimizer.gradient_norm())
        if not norm < float("inf"):
            raise NonFiniteError(f"distillation: the gradient is NaN or infinite at step {steps}")
        optimizer.scale_gradients(min(1.0, NORM / (norm + 1e-6)))
        optimizer.step(min(1.0, max(passed, 1e-3) / WARM_UP) * (1 - passed))
        optimizer.forget_gradients()
        steps += 1
    student.eval()
    return steps


def distillation_loss(teacher: GPT, student: GPT, tokens: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy with the text, and with the teacher's distribution, weighted; tokens, targets (B, T) -> nats.

    The cross entropy with a distribution is its KL divergence and a constant: the same gradient.
    """
    with torch.no_grad():
        theirs, _ = teacher(tokens)  # (B, T, vocab_size)
    ours, _ = student(tokens)
    log_probabilities = F.log_softmax(ours.float(), dim=-1).flatten(0, 1)  # (B T, vocab_size)
    with_text = F.nll_loss(log_probabilities, targets.flatten())
    with_teacher = F.kl_div(
        log_probabilities, F.log_softmax(theirs.float(), dim=-1).flatten(0, 1), reduction="batchmean", log_target=True
    )
    return (1 - WEIGHT_OF_TEACHER) * with_text + WEIGHT_OF_TEACHER * with_teacher
