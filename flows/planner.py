"""Budget + measured speed + memory + data -> the ladder of models to train, and for each one left out, why.

Pure arithmetic on measured figures: the same measurements and the same budget give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flows.options import PHASES
from nanogpt.config import Config
from nanogpt.faults import UserError

# Seconds of each phase but training on two cores (docs/whole_run.md).
PHASE_SECONDS = {
    "environment": 4.0, "implementation": 3.0, "configuration": 11.0, "dataset": 2.0,
    "evaluation": 36.0, "deployment": 12.0, "documentation": 3.0,
}  # fmt: skip
START_SECONDS = 7.0  # Prefect's server and the imports
MARGIN = 0.05  # of the budget: noise of the machine
FIRST_SHARE = 0.15  # of the training time for the small model that always comes first
LEAST_SHARE = 0.1  # of the budget for training, however short it is
EVALUATION_SHARE = 0.06  # of a model's time for evaluations on the whole validation split
MEMORY_SHARE = 0.7  # of the memory that a training may take
DROPOUT_COST = 1.4  # dropout against none, 0.8 M and 4.9 M parameters on two cores (measured 1.39 and 1.41)
SIMILAR = 1.03  # expected losses within this share count as equal: the estimate is no better; the larger model wins
OPTIMISM = 2.5  # a larger model reaches at most this much more FLOP/s than the one before it (measured 2.1 and 2.4)
MOST_EPOCHS = 30  # the worth of one more pass over the same text has faded by then (Muennighoff et al. 2023)
SMALL_DATA_BYTES = 16 << 20  # characters up to here, BPE beyond: fewer, better known symbols
LARGEST_ALPHABET = 512


@dataclass(frozen=True)
class Speed:
    """What a short measurement of real steps gave for one model."""

    name: str
    parameters: int
    seconds_per_step: float
    flops_per_second: float
    peak_memory_bytes: int
    mixed_precision: bool
    threads: int
    batch_size: int | None = None  # the micro-batch that fitted; None: as configured
    gradient_accumulation: int | None = None


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


@dataclass(frozen=True)
class Rung:
    """One model of the ladder: its resolved configuration and what is expected of it."""

    config: Config
    parameters: int
    tokens: int
    seconds: float
    memory_bytes: int
    expected_bits_per_byte: float
    why: str

    def facts(self) -> dict:
        model, training = self.config.model, self.config.training
        return {
            "name": self.config.name, "parameters": self.parameters, "n_layer": model.n_layer,
            "n_head": model.n_head, "n_embd": model.n_embd, "block_size": model.block_size,
            "tokenizer": self.config.data.tokenizer,
            "precision": "bfloat16" if self.config.device.mixed_precision else "float32",
            "batch_size": training.batch_size, "gradient_accumulation": training.gradient_accumulation,
            "max_iters": training.max_iters, "tokens": self.tokens, "seconds": round(self.seconds, 1),
            "memory_bytes": self.memory_bytes, "expected_bits_per_byte": round(self.expected_bits_per_byte, 3),
            "why": self.why,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    budget_seconds: float
    ladder: list[Rung]
    left_out: list[dict]  # {name, reason}
    phase_seconds: dict[str, float]

    def facts(self) -> dict:
        phases = [
            {"number": number, "title": name.capitalize(), "planned_seconds": round(self.phase_seconds[name], 1)}
            for number, name in enumerate(PHASES, 1)
        ]
        return {"budget_seconds": self.budget_seconds, "ladder": [rung.facts() for rung in self.ladder],
                "left_out": self.left_out, "phases": phases}  # fmt: skip


def training_seconds(budget: float) -> float:
    """What the other seven phases leave of the budget."""
    return max(LEAST_SHARE * budget, budget * (1 - MARGIN) - sum(PHASE_SECONDS.values()) - START_SECONDS)


def phase_seconds(budget: float) -> dict[str, float]:
    """Seconds of each phase but training; in a budget shorter than they need, their share of it."""
    available = budget - training_seconds(budget) - START_SECONDS
    share = min(1.0, available / sum(PHASE_SECONDS.values()))
    return {name: seconds * share for name, seconds in PHASE_SECONDS.items()}


def tokenizer_for(config: Config, corpus_bytes: int, alphabet_size: int) -> str:
    """`auto` resolved: characters for small data with a small alphabet, BPE for the rest."""
    if config.data.tokenizer != "auto":
        return config.data.tokenizer
    small = corpus_bytes <= SMALL_DATA_BYTES and alphabet_size <= LARGEST_ALPHABET
    return "char" if small else "bpe"


def hopeless(
    parameters: int, measured: Sequence[Speed], step_tokens: dict[str, int], budget: float, corpus: Corpus
) -> str | None:  # fmt: skip
    """Why a larger model need not even be measured, or None: at an optimistic rate it would be clearly worse."""
    seconds = training_seconds(budget)
    seen = {speed.name: int(seconds / speed.seconds_per_step * step_tokens[speed.name]) for speed in measured}
    expected = {
        speed.name: expected_bits_per_byte(speed.parameters, seen[speed.name], corpus.train_tokens)
        for speed in measured
    }
    best = min(expected, key=expected.__getitem__)
    rate = OPTIMISM * max(speed.flops_per_second for speed in measured)
    tokens = max(1, int(seconds * rate / (6 * parameters)))
    reach = expected_bits_per_byte(parameters, tokens, corpus.train_tokens)
    if reach <= SIMILAR * expected[best]:
        return None
    return (
        f"even at {rate / 1e9:.0f} GFLOP/s it would see only {tokens:,} tokens in {seconds:.0f} s and reach about "
        f"{reach:.2f} bits per byte; {best} reaches about {expected[best]:.2f}"
    )


def make_plan(
    rungs: Sequence[Config], speeds: dict[str, Speed], unmeasured: dict[str, str], budget: float, corpus: Corpus,
    memory_bytes: int, fixed: bool, pinned: frozenset[str],
) -> Plan:  # fmt: skip
    """The ladder for `budget` seconds. Raises UserError when the data cannot feed even the smallest model."""
    left_out = [{"name": name, "reason": reason} for name, reason in unmeasured.items()]
    candidates = []
    for rung in rungs:
        if rung.name not in speeds:
            continue
        obstacle = _obstacle(rung, speeds[rung.name], corpus, memory_bytes)
        if obstacle is None:
            candidates.append(rung)
        elif len(rungs) == 1 or rung is rungs[0]:
            raise UserError(f"{rung.name}: {obstacle}")
        else:
            left_out.append({"name": rung.name, "reason": obstacle})

    seconds = training_seconds(budget)
    if fixed:
        ladder = [_rung(candidates[0], speeds, corpus, seconds, pinned, fixed, "the model that --config names")]
    else:
        ladder = _ladder(candidates, speeds, corpus, seconds, pinned)
    chosen = {rung.config.name for rung in ladder}
    for rung in candidates:
        if rung.name not in chosen:
            left_out.append({"name": rung.name, "reason": _why_not(rung, speeds, corpus, seconds, pinned, ladder[-1])})
    seconds_of_phases = {**phase_seconds(budget), "training": sum(rung.seconds for rung in ladder)}
    return Plan(budget, ladder, left_out, seconds_of_phases)


def _ladder(
    candidates: list[Config], speeds: dict[str, Speed], corpus: Corpus, seconds: float, pinned: frozenset[str]
) -> list[Rung]:
    """The small one first, then the largest that is expected to predict about as well as any in the time left."""
    first, *larger = candidates
    alone = _rung(first, speeds, corpus, seconds, pinned, False, "the whole training time: best in so short a time")
    share = _rung(first, speeds, corpus, seconds * FIRST_SHARE, pinned, False, "the first proof: small and soon done")
    rest = seconds - share.seconds
    others = [
        _rung(rung, speeds, corpus, rest, pinned, False, "the largest that the time left can feed well")
        for rung in larger
    ]
    least = min(rung.expected_bits_per_byte for rung in [alone, *others])
    best = [rung for rung in [alone, *others] if rung.expected_bits_per_byte <= SIMILAR * least][-1]
    return [alone] if best is alone else [share, best]


def _rung(
    config: Config, speeds: dict[str, Speed], corpus: Corpus, seconds: float, pinned: frozenset[str], fixed: bool,
    why: str,
) -> Rung:  # fmt: skip
    """`config` sized to `seconds`: steps, intervals, precision, dropout; what a person has set stays as it is."""
    speed = speeds[config.name]
    if config.training.max_seconds is not None:
        seconds = min(seconds, config.training.max_seconds)
    step_tokens = tokens_per_step(config)
    seconds_per_step, dropout = speed.seconds_per_step, config.model.dropout
    if not dropout and "model.dropout" not in pinned and not fixed:
        passes = seconds * step_tokens / seconds_per_step / corpus.train_tokens
        dropout = _dropout(passes, speed.parameters, corpus)
        seconds_per_step *= DROPOUT_COST if dropout else 1.0
    evaluation = corpus.val_tokens / (3 * step_tokens) * seconds_per_step  # forward only: a third of a step
    steps_by_time = seconds * (1 - EVALUATION_SHARE) / seconds_per_step
    steps_by_data = MOST_EPOCHS * corpus.train_tokens / step_tokens
    max_iters = max(config.training.warmup_iters + 30, int(min(steps_by_time, steps_by_data)))
    if fixed or "training.max_iters" in pinned:
        max_iters = config.training.max_iters
    stepping = max_iters * seconds_per_step
    evaluations = max(2, min(20, int(stepping * EVALUATION_SHARE / max(evaluation, 1e-6))))
    needed = stepping + (evaluations + 1) * evaluation
    changes = {
        "training.max_iters": max_iters,
        "training.eval_interval": max(1, max_iters // evaluations),
        "training.sample_interval": max(1, max_iters // 5),
        "training.log_interval": max(1, max_iters // 400),
        "training.checkpoint_interval": max(1, int(_checkpoint_seconds(needed) / seconds_per_step)),
        "model.dropout": dropout,
    }
    if fixed:
        changes = {}
    # A fixed number of steps that fits the time needs no clock: the weights then depend on the steps alone.
    free_of_clock = (
        (fixed or "training.max_iters" in pinned) and needed <= seconds and config.training.max_seconds is None
    )
    changes["training.max_seconds"] = None if free_of_clock else round(seconds, 1)
    if speed.batch_size is not None:
        changes["training.batch_size"] = speed.batch_size
        changes["training.gradient_accumulation"] = speed.gradient_accumulation
    changes["device.mixed_precision"] = speed.mixed_precision
    changes["device.threads"] = speed.threads
    config = config.with_changes({key: value for key, value in changes.items() if key not in pinned})
    tokens = max(1, min(max_iters, int(steps_by_time))) * step_tokens  # the clock may end it before max_iters
    return Rung(
        config=config, parameters=speed.parameters, tokens=tokens, seconds=min(needed, seconds),
        memory_bytes=speed.peak_memory_bytes,
        expected_bits_per_byte=expected_bits_per_byte(speed.parameters, tokens, corpus.train_tokens), why=why,
    )  # fmt: skip


def _dropout(passes: float, parameters: int, corpus: Corpus) -> float:
    """Only for a model that sees the same text often and is large enough to learn it by heart."""
    if passes <= 4 or parameters <= corpus.train_tokens:
        return 0.0
    return 0.1 if passes <= 10 else 0.2


def tokens_per_step(config: Config) -> int:
    return config.training.batch_size * config.training.gradient_accumulation * config.model.block_size


def _checkpoint_seconds(training: float) -> float:
    """Between checkpoints: what a kill may cost. 15 s in a short run, two minutes in a long one."""
    return min(120.0, max(15.0, training / 20))


def _obstacle(config: Config, speed: Speed, corpus: Corpus, memory_bytes: int) -> str | None:
    shortest = min(corpus.val_tokens, corpus.train_tokens)
    if shortest <= config.model.block_size:
        return (
            f"model.block_size {config.model.block_size} is longer than the validation text of about "
            f"{shortest:,} tokens; a longer text or a smaller model.block_size is needed"
        )
    if speed.peak_memory_bytes > MEMORY_SHARE * memory_bytes:
        return f"needs {speed.peak_memory_bytes / 2**30:.1f} GiB of {memory_bytes / 2**30:.1f} GiB of memory"
    return None


def _why_not(
    config: Config, speeds: dict[str, Speed], corpus: Corpus, seconds: float, pinned: frozenset[str], best: Rung
) -> str:
    rung = _rung(config, speeds, corpus, seconds, pinned, False, "")
    return (
        f"in {seconds:.0f} s it would see {rung.tokens:,} tokens and reach about {rung.expected_bits_per_byte:.2f} "
        f"bits per byte; {best.config.name} reaches about {best.expected_bits_per_byte:.2f}"
    )


# Fitted to runs on tiny Shakespeare's characters (docs/plan.md): E + A / N^a + B / D^b, the form of Hoffmann et al.
# 2022, eq. 2, with repeated data discounted as Muennighoff et al. 2023, eq. 5 (R* = 15.4).
E, A, ALPHA, B, BETA = 1.54, 23.50, 0.34, 114.2, 0.40
REPEAT_DECAY = 15.4


def expected_bits_per_byte(parameters: int, tokens: int, train_tokens: int) -> float:
    """Bits per byte on held-out text after `tokens` of training, of which `train_tokens` are distinct."""
    distinct = min(tokens, train_tokens)
    repeats = max(0.0, tokens / distinct - 1)
    worth = distinct * (1 + REPEAT_DECAY * (1 - math.exp(-repeats / REPEAT_DECAY)))
    return E + A / parameters**ALPHA + B / worth**BETA


def speed_of(name: str, facts: dict) -> Speed:
    """A measurement as nanogpt.training.profiler reports it."""
    fields = {key: facts[key] for key in Speed.__dataclass_fields__ if key in facts}
    return Speed(**{**fields, "name": name})
