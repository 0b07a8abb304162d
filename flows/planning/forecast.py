"""What training a model will cost and reach: seconds from what was measured here, loss from the scaling law."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flows.ledger.facts import MeasuredModel
from nanogpt.config import Config
from nanogpt.measure.sizes import tokens_per_step


@dataclass(frozen=True)
class Speed:
    """What a short measurement of real steps, and of what happens between them, gave for one model."""

    name: str
    parameters: int
    seconds_per_step: float
    flops_per_second: float
    peak_memory_bytes: int
    mixed_precision: bool | str
    threads: int
    batch_size: int | None = None  # the micro-batch that fitted and was fastest; None: as configured
    gradient_accumulation: int | None = None
    gradient_checkpointing: bool = False  # it needs them to fit into memory
    longest_window: int | None = None
    evaluation_seconds_per_token: float | None = None  # None: not measured, taken as a third of a step's
    sample_seconds: float = 0.0  # of one sample
    save_seconds: float = 0.0  # of one checkpoint

    @classmethod
    def of(cls, name: str, measured: MeasuredModel) -> Speed:
        return cls(
            name=name,
            parameters=measured.parameters,
            seconds_per_step=measured.seconds_per_step,
            flops_per_second=measured.flops_per_second,
            peak_memory_bytes=measured.peak_memory_bytes,
            mixed_precision=measured.mixed_precision,
            threads=measured.threads,
            batch_size=measured.batch_size,
            gradient_accumulation=measured.gradient_accumulation,
            gradient_checkpointing=measured.gradient_checkpointing,
            longest_window=measured.longest_window,
            evaluation_seconds_per_token=measured.evaluation_seconds_per_token,
            sample_seconds=measured.sample_seconds,
            save_seconds=measured.save_seconds,
        )


@dataclass(frozen=True)
class Corpus:
    """What there is to learn from."""

    bytes: int
    characters: int
    alphabet_size: int
    val_fraction: float
    test_fraction: float
    bytes_per_token: float

    @property
    def train_tokens(self) -> int:
        return int(self.bytes / self.bytes_per_token * (1 - self.val_fraction - self.test_fraction))

    @property
    def val_tokens(self) -> int:
        return int(self.bytes / self.bytes_per_token * self.val_fraction)


def evaluation_seconds(config: Config, speed: Speed, corpus: Corpus) -> float:
    """Of one evaluation on the whole validation split, with the checkpoint and the best weights that go with it."""
    models = 2 if config.training.weight_average else 1  # the weights and their average
    return models * corpus.val_tokens * evaluation_token_seconds(config, speed) + 1.5 * speed.save_seconds


def evaluation_token_seconds(config: Config, speed: Speed) -> float:
    """Of one token of an evaluation; where it was not measured, a third of a step's, as forward alone."""
    if speed.evaluation_seconds_per_token is None:
        return speed.seconds_per_step / tokens_per_step(config) / 3
    return speed.evaluation_seconds_per_token


def samples_seconds(config: Config, speed: Speed) -> float:
    """Of one round of samples, one at each temperature."""
    return len(config.training.sample_temperatures) * speed.sample_seconds


def seconds_between_steps(config: Config, speed: Speed, corpus: Corpus) -> float:
    """Of all evaluations, samples and checkpoints of a training with the intervals that `config` has."""
    training = config.training

    def rounds(interval: int) -> int:  # each interval's, and one at the end
        return -(-training.max_iters // interval) if interval else 0

    saves = rounds(training.checkpoint_interval) + 2  # one at the start, one before the cool-down
    return (
        rounds(training.eval_interval) * evaluation_seconds(config, speed, corpus)
        + rounds(training.sample_interval) * samples_seconds(config, speed)
        + saves * speed.save_seconds
    )


def judging_seconds(config: Config, speed: Speed, corpus: Corpus) -> float:
    """Of phase 6 for one model: loss on val and test, on both again as nanoGPT measures, and long samples."""
    return 4 * corpus.val_tokens * evaluation_token_seconds(config, speed) + 6 * speed.sample_seconds


# Fitted to runs on tiny Shakespeare's characters (docs/plan.md): E + A / N^a + B / D^b, the form of Hoffmann et al.
# 2022, eq. 2, with repeated data discounted as Muennighoff et al. 2023, eq. 5 (R* = 15.4).
E, A, ALPHA, B, BETA = 1.552, 24.49, 0.34, 98.45, 0.395
REPEAT_DECAY = 15.4


def expected_bits_per_byte(parameters: int, tokens: int, train_tokens: int) -> float:
    """Bits per byte on held-out text after `tokens` of training, of which `train_tokens` are distinct."""
    distinct = min(tokens, train_tokens)
    repeats = max(0.0, tokens / distinct - 1)
    worth = distinct * (1 + REPEAT_DECAY * (1 - math.exp(-repeats / REPEAT_DECAY)))
    return float(E + A / parameters**ALPHA + B / worth**BETA)
