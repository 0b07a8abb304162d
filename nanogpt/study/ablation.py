"""One small training of one variant, with the trainer's own step. Nothing is saved, and what breaks is not mended."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from nanogpt.config import Config
from nanogpt.results.ablations import Ablation
from nanogpt.study import surgery
from nanogpt.study.variants import BY_NAME, CONTROL, Variant
from nanogpt.training import numerics as numerical
from nanogpt.training.data_folder import DataFolder
from nanogpt.training.job import completed
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.progress import Progress
from nanogpt.training.record.recorder import NoRecord
from nanogpt.training.samples import samples_of
from nanogpt.training.state import TrainingState, set_up
from nanogpt.training.step import Stepper
from nanogpt.training.stopping import StopRequest
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.training.update.stability import NON_FINITE
from nanogpt.training.validation import Validator

POINTS = 25  # of a curve
WARM_UP, TIMED = 3, 12  # steps of a measurement; the first ones fill caches


def train_variant(control: Config, data_folder: Path, name: str, seed: int, steps: int) -> Ablation:
    """`steps` steps of a variant of `control`, judged on the validation split. Raises what a training raises.

    A step that is not finite ends it: where a training would go back, the variant is what there is to be seen.
    """
    variant = BY_NAME[name]
    training = _Training(variant, _of_length(control, seed, steps), Path(data_folder))
    losses: list[float] = []
    began = time.perf_counter()
    while len(losses) < steps:
        result = training.stepper.take(skip_spikes=False)
        if result.skipped == NON_FINITE:
            break
        losses.append(result.loss)
    seconds = time.perf_counter() - began
    diverged = len(losses) < steps
    as_trained = val_loss = math.nan if diverged else training.validation_loss()
    if not diverged and surgery.is_unmasked(training.model):
        with surgery.masked(training.model):
            val_loss = training.validation_loss()
    return Ablation(
        variant=name,
        seed=seed,
        steps=steps,
        parameters=training.model.num_parameters(),
        val_loss=_finite(val_loss),
        val_loss_as_trained=_finite(as_trained),
        bits_per_byte=_finite(val_loss / math.log(2) * training.tokens_per_byte),
        curve=_curve(losses, steps),
        diverged_at=len(losses) if diverged else None,
        seconds=seconds,
        tokens_per_second=len(losses) * training.config.tokens_per_step / seconds,
        device=training.numerics.device,
        precision=training.numerics.precision,
        threads=training.numerics.threads,
    )


def seconds_for_steps(control: Config, data_folder: Path) -> tuple[float, float]:
    """Seconds of a step of the control, and of judging it on the validation split, as they are here and now."""
    training = _Training(CONTROL, _of_length(control, control.training.seed, WARM_UP + TIMED), Path(data_folder))
    marks = []
    for _ in range(WARM_UP + TIMED):
        training.stepper.take(skip_spikes=False)
        marks.append(time.perf_counter())
    began = time.perf_counter()
    training.validation_loss()
    return (marks[-1] - marks[WARM_UP - 1]) / TIMED, time.perf_counter() - began


class _Training:
    """A variant's model and the trainer's parts around it."""

    def __init__(self, variant: Variant, control: Config, data_folder: Path):
        data, stop, record = DataFolder(data_folder), StopRequest(), NoRecord()
        self.config = config = completed(variant.config(control), data)
        self.numerics, _ = numerical.choose(config.device, before={})
        torch.manual_seed(config.training.seed)  # dropout's generator
        self.model = surgery.build(variant, config)
        set_up(self.model, self.numerics)
        optimizer = Optimizer(self.model, config.training, getattr(torch, self.numerics.newton_schulz))
        state = TrainingState(self.model, optimizer, None, Progress.at_start(config), self.numerics.device)
        samples = samples_of(data, config)
        self.micro_batches = MicroBatches(
            samples, self.numerics.device, config.training.batch_size, config.context, stop
        )
        self.stepper = Stepper(config, self.numerics, state, self.micro_batches, stop.check, record)
        self.validator = Validator(
            self.model, data.tokenizer, data.val, self.numerics, config.context, stop, record.beat
        )
        self.tokens_per_byte = len(data.val.tokens) / data.val.bytes

    def validation_loss(self) -> float:
        return self.validator.validation_loss(self.micro_batches.size)


def _of_length(control: Config, seed: int, steps: int) -> Config:
    """`control` for a training of `steps` steps: its warm-up takes a tenth of them at most."""
    warm_up = min(control.training.warmup_iters, steps // 10)
    return control.with_changes(
        {"training.seed": seed, "training.max_iters": steps, "training.warmup_iters": warm_up,
         "training.weight_average": 0.0, "training.max_seconds": None}
    )  # fmt: skip


def _curve(losses: Sequence[float], steps: int) -> list[tuple[int, float]]:
    """(last step, mean loss) of each of POINTS equal stretches of the training."""
    length = max(1, steps // POINTS)
    return [(end, fmean(losses[end - length : end])) for end in range(length, len(losses) + 1, length)]


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
