"""Learning-rate range test (Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3).

The first steps of a training are taken with a learning rate that rises exponentially. It is given as a factor on every
peak of the recipe, Muon's and AdamW's together, because their ratios are a part of the recipe. Where the loss falls
fastest the rate is safe but slow; where it is lowest the rate is at its edge. The suggestion is half way between the
two on the logarithmic axis: over four sweeps of configs/micro.yaml (three seeds, and 200 steps) it was 0.43 to 0.83,
where the tuned recipe is 1; a third of the lowest, a usual rule, was 0.32 to 1.72. docs/training_guide.md has what
trainings with each of these rates came to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from nanogpt.config import Config, TrainingConfig
from nanogpt.results.speed import RangeTest
from nanogpt.training import numerics as numerical
from nanogpt.training.data_folder import DataFolder
from nanogpt.training.job import completed
from nanogpt.training.micro_batches import MicroBatches
from nanogpt.training.record.recorder import NoRecord
from nanogpt.training.samples import document_start, samples_of
from nanogpt.training.state import TrainingState
from nanogpt.training.step import Stepper
from nanogpt.training.stopping import StopRequest
from nanogpt.training.update.stability import NON_FINITE

REACH = 20  # the loss is smoothed by the mean of as many neighbours on each side as a 20th of the steps
LOST = 0.5  # the sweep ends when this share of what the loss gained is lost again
AS_IN_THE_MIDDLE = {  # of a training: its beginning has other windows and batches
    "training.initial_block_size": None,
    "training.initial_batch": None,
    "training.weight_average": 0.0,
}


def learning_rate_range(
    config: Config,
    data_folder: Path,
    first: float,
    last: float,
    steps: int,
    on_step: Callable[[int, float, float], None] = lambda step, factor, loss: None,
) -> RangeTest:
    """At most `steps` steps from the beginning of a training, the factor rising from `first` to `last`.

    Same arguments, same result. Nothing is written. `on_step` gets step, factor and loss as they come. Raises
    what a training raises.
    """
    stepper = _stepper(config, data_folder)
    factors: list[float] = []
    losses: list[float] = []
    for step in range(steps):
        factor = first * (last / first) ** (step / max(1, steps - 1))
        result = stepper.take(factor, skip_spikes=False)
        if result.skipped == NON_FINITE or not math.isfinite(result.loss):
            break
        factors.append(factor)
        losses.append(result.loss)
        on_step(step, factor, result.loss)
        if has_diverged(losses):
            break
    return judged(factors, losses)


def _stepper(config: Config, data_folder: Path) -> Stepper:
    """The steps of a training of `config` that leaves nothing behind."""
    # The model as it was written: a source of weights decides what a person left out of it.
    config = config.with_changes(AS_IN_THE_MIDDLE).model_copy(update={"model": config.model})
    data, stop, record = DataFolder(data_folder), StopRequest(), NoRecord()
    config = completed(config, data)
    numerics, _ = numerical.choose(config.device, before={})
    state = TrainingState.at_start(config, numerics, record)
    state.model.document_start = document_start(data, config)
    samples = samples_of(data, config)
    micro_batches = MicroBatches(samples, numerics.device, config.training.batch_size, config.context, stop)
    return Stepper(config, numerics, state, micro_batches, stop.check, record)


def has_diverged(losses: list[float]) -> bool:
    """Whether the mean of the last five losses gave back half of what the best five in a row had gained."""
    if len(losses) < 10:
        return False
    means = [sum(losses[end - 5 : end]) / 5 for end in range(5, len(losses) + 1)]
    gained = losses[0] - min(means)
    return means[-1] > max(min(means) + LOST * gained, min(means) * 1.05)


def judged(factors: list[float], losses: list[float]) -> RangeTest:
    """Where the smoothed loss falls fastest and where it is lowest."""
    smoothed = centred_means(losses, len(losses) // REACH)
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    if lowest < 2 or smoothed[0] - smoothed[lowest] < 0.01 * smoothed[0]:
        return RangeTest(factors, losses, smoothed, None, None, has_diverged(losses))
    steepest = min(range(1, lowest), key=lambda step: smoothed[step + 1] - smoothed[step - 1])
    rises = lowest < len(smoothed) - 1 and smoothed[-1] > 1.02 * smoothed[lowest]
    return RangeTest(factors, losses, smoothed, factors[steepest], factors[lowest], rises)


def centred_means(values: list[float], reach: int) -> list[float]:
    """Means over `reach` neighbours on both sides, fewer near the ends: without a lag, which would move the lowest."""
    means = []
    for place in range(len(values)):
        near = min(reach, place, len(values) - 1 - place)
        part = values[place - near : place + near + 1]
        means.append(sum(part) / len(part))
    return means


def peaks(config: TrainingConfig) -> dict[str, float]:
    """The learning rates that the factor is on, by their settings' names."""
    names = ["learning_rate"]
    if config.optimizer == "muon":
        names = ["muon_learning_rate", "learning_rate", "embedding_learning_rate"]
    return {f"training.{name}": getattr(config, name) for name in names}
