"""What training a model will cost and reach: seconds from what was measured here, loss from the scaling law."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flows.ledger.facts import MeasuredModel
from nanogpt.config import Config


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
    attention: str = "auto"
    newton_schulz: str = "auto"
    compiled: bool = False
    compile_seconds: float = 0.0
    pace: float = 1.0  # times `seconds_per_step` that a step of a training is expected to take (flows.planning.pace)

    @property
    def expected_seconds_per_step(self) -> float:
        """In a training."""
        return self.pace * self.seconds_per_step

    @classmethod
    def of(cls, name: str, measured: MeasuredModel, pace: float = 1.0) -> Speed:
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
            attention=measured.attention,
            newton_schulz=measured.newton_schulz,
            compiled=measured.compiled,
            compile_seconds=measured.compile_seconds,
            pace=pace,
        )


@dataclass(frozen=True)
class Law:
    """Bits per byte on held-out text: (e + a / N^alpha + b / D^beta) / `nats`, where D is in tokens of so many bytes;
    None: as the model's own tokens count. Hoffmann et al. 2022, eq. 2, with repeated text discounted as Muennighoff et
    al. 2023, eq. 5."""

    e: float
    a: float
    alpha: float
    b: float
    beta: float
    bytes_per_token: float | None = None
    bits: float = 1.0  # of a byte, for one unit of the sum
    repeat_decay: float = 15.4  # R* of equation 5: the smaller, the less a text teaches that was read before
    first_steps: float = 0.0  # in so many, a training learns from its tokens as later from half of them
    # Losses within this share count as equal, and the larger model wins. With 1.03 an M4's three days were planned with
    # 125 M parameters (1.17 bits per byte), where 50 M are expected to reach 1.15 (docs/plan.md).
    alike: float = 1.01

    def bits_per_byte(self, parameters: int, tokens: float, train_tokens: float) -> float:
        """After `tokens` of training, of which `train_tokens` are distinct."""
        size, data = self.a / parameters**self.alpha, self.b / self.worth(tokens, train_tokens) ** self.beta
        return float(self.bits * (self.e + size + data))

    def after(
        self, parameters: int, tokens: float, tokens_per_step: float, train_tokens: int, bytes_per_token: float
    ) -> float:
        """The same where tokens have so many bytes, and a step so many tokens."""
        unit = bytes_per_token / self.bytes_per_token if self.bytes_per_token else 1.0
        return self.bits_per_byte(parameters, unit * self.learned(tokens, tokens_per_step), unit * train_tokens)

    def learned(self, tokens: float, tokens_per_step: float) -> float:
        """`tokens` without those of which a training's first steps, with its warm-up, learn little: all but
        `first_steps` of many steps, half of as many."""
        steps = tokens / tokens_per_step
        return tokens * steps / (steps + self.first_steps)

    def worth(self, tokens: float, train_tokens: float) -> float:
        """How many new tokens would teach as much as `tokens`, of which `train_tokens` are distinct."""
        distinct = min(tokens, train_tokens)
        repeats = max(0.0, tokens / distinct - 1)
        return distinct * (1 + self.repeat_decay * (1 - math.exp(-repeats / self.repeat_decay)))


# Fitted to runs on tiny Shakespeare's characters (docs/plan.md).
PLAYS = Law(1.677, 90972.0, 1.0, 105.5, 0.4076, repeat_decay=3.0, first_steps=80.0, alike=1.0)
# Of web pages, and coarse: Hoffmann et al.'s trainings as Besiroglu et al. 2024 fit them, in nats a token of 4.3 bytes
# (none has less than 44 M parameters). A token is worth 3.7 of theirs: what GPT-2's shape learns with AdamW from 10 B,
# one with rotary positions, QK-norm, a head that starts at zero and Muon learns from 2.67 B, 5,100 steps of 524,288
# (KellerJordan/modded-nanogpt, its record of 2024-10-14).
WORTH = 3.7
WEB = Law(1.8172, 482.01, 0.3478, 2085.43 / WORTH**0.3658, 0.3658, bytes_per_token=4.3, bits=1 / (4.3 * math.log(2)))
# TinyStories, coarse too: the same shape at 0.26 of its height. karpathy/llama2.c ends at 1.072, 0.847 and 0.760 nats a
# token with 15, 42 and 110 M parameters: 0.28, 0.25 and 0.25 of what Hoffmann et al. expect of as large a model.
STORIES = replace(WEB, bits=0.26 * WEB.bits)


def law_of(name: str, in_pieces: bool) -> Law:
    """Of a text; a small one, which is prepared whole, is forecast as the plays are, whatever it is."""
    return STORIES if name == "tinystories" else WEB if in_pieces else PLAYS


@dataclass(frozen=True)
class Corpus:
    """What there is to learn from. Held out is a share of it, `most_held_out` bytes at most for each split."""

    bytes: int
    characters: int
    alphabet_size: int
    val_fraction: float
    test_fraction: float
    bytes_per_token: float
    most_held_out: int | None = None
    law: Law = PLAYS

    @property
    def train_tokens(self) -> int:
        held_out = self._held_out(self.val_fraction) + self._held_out(self.test_fraction)
        return int(self.bytes / self.bytes_per_token * (1 - held_out))

    @property
    def val_tokens(self) -> int:
        return int(self.bytes / self.bytes_per_token * self._held_out(self.val_fraction))

    def bits_per_byte(self, parameters: int, tokens: float, tokens_per_step: float) -> float:
        """Expected after `tokens` of training."""
        return self.law.after(parameters, tokens, tokens_per_step, self.train_tokens, self.bytes_per_token)

    def _held_out(self, fraction: float) -> float:
        return fraction if self.most_held_out is None else min(fraction, self.most_held_out / self.bytes)


def evaluation_seconds(config: Config, speed: Speed, corpus: Corpus) -> float:
    """Of one evaluation on the whole validation split, with the checkpoint and the best weights that go with it."""
    models = 2 if config.training.weight_average else 1  # the weights and their average
    return models * corpus.val_tokens * evaluation_token_seconds(config, speed) + 1.5 * speed.save_seconds


def evaluation_token_seconds(config: Config, speed: Speed) -> float:
    """Of one token of an evaluation; where it was not measured, a third of a step's, as forward alone."""
    if speed.evaluation_seconds_per_token is None:
        return speed.seconds_per_step / config.tokens_per_step / 3
    return speed.evaluation_seconds_per_token


def samples_seconds(config: Config, speed: Speed) -> float:
    """Of one round of samples, one at each temperature."""
    return len(config.training.sample_temperatures) * speed.sample_seconds


def seconds_between_steps(config: Config, speed: Speed, corpus: Corpus, steps: int | None = None) -> float:
    """Of all evaluations, samples and checkpoints of a training with the intervals that `config` has, and of compiling
    before the first step; `steps`: as many as its time allows, where that is not all of max_iters."""
    training = config.training

    def rounds(interval: int) -> int:  # each interval's, and one at the end
        return -(-(steps or training.max_iters) // interval) if interval else 0

    saves = rounds(training.checkpoint_interval) + 2  # one at the start, one before the cool-down
    return (
        speed.compile_seconds
        + rounds(training.eval_interval) * evaluation_seconds(config, speed, corpus)
        + rounds(training.sample_interval) * samples_seconds(config, speed)
        + saves * speed.save_seconds
    )


def judging_seconds(config: Config, speed: Speed, corpus: Corpus) -> float:
    """Of phase 6 for one model: loss on val and test, on both again as nanoGPT measures, and long samples."""
    return 4 * corpus.val_tokens * evaluation_token_seconds(config, speed) + 6 * speed.sample_seconds
