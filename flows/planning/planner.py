"""Budget + measured speed + memory + data -> the models to train, smallest first, and for each one left out, why.

Pure arithmetic on measured figures: the same measurements and the same budget give the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from flows.ledger.facts import LeftOut, Planned, PlannedModel, PlannedPhase, PlannedText
from flows.planning import budget_shares, weight_decay
from flows.planning.forecast import (
    Corpus,
    Speed,
    evaluation_seconds,
    judging_seconds,
    samples_seconds,
    seconds_between_steps,
)
from nanogpt.config import Config, TrainingConfig
from nanogpt.faults import UserError
from nanogpt.units import byte_size, count, duration, flops, percent

STEP_SPLIT = frozenset({"training.batch_size", "training.gradient_accumulation"})
# Of what decides the weights.
SIZED = frozenset({"training.max_iters", "training.eval_interval", "training.weight_decay"})
FIRST_SHARE = 0.15  # of the training time for the small model that always comes first, and for each one in turn
FED = 10  # tokens for each parameter are a first proof, and enough of one; Hoffmann et al. 2022: 20 are best
CHILD_SECONDS = 3.0  # of each model's process, before its first step and after its last
EVALUATION_SHARE = 0.06  # of a model's time for evaluations on the whole validation split
SAMPLE_SHARE = 0.02  # and for samples
SAVE_SHARE = 0.01  # and for checkpoints
BETWEEN_SHARE = EVALUATION_SHARE + SAMPLE_SHARE + SAVE_SHARE  # of a model's time for all that is no step
LEAST_OF_A_STEP = 1e-3  # for an expectation: in no time at all nothing is learned
LEAST_AFTER_WARMUP = 30  # steps
# Times the steps that the measured speed allows: where that saw a bad moment, no time is left unused; the cool-down
# follows the clock (that of `wsd`; another schedule would be cut off). On a shared host a step of micro took 37 ms,
# then 48, then 56.
KINDER = 1.25
WORTH_CONTINUING = 1.5  # times the steps of a model that is trained: its cool-down has to be done again
MOST_EVALUATIONS, MOST_SAMPLES = 20, 5
# A larger model reaches at most OPTIMISM times the FLOP/s of those measured; from the third on OPTIMISM_OF_GAIN times
# what the last of them gained over the one before, if that is less. Measured gains with AMX: 2.4 from micro to
# tiny_model, 2.1 from there to small_model; on an EPYC: 1.5 from micro to mini_model, 1.2 from there to tiny_model.
OPTIMISM, OPTIMISM_OF_GAIN = 2.5, 1.5
# Parameters for each distinct token of the text. nanoGPT's 10.7 M with dropout 0.2 are 11 for each character of tiny
# Shakespeare, and at their best when its recipe ends: more of them only learn the text by heart sooner.
MOST_PARAMETERS_PER_TOKEN = 20
MOST_EPOCHS = 30  # more passes teach nothing by the law; with the weight decay of a text read so often they do no harm
SMALL_DATA_BYTES = 16 << 20  # characters up to here, BPE beyond: fewer, better known symbols
LARGEST_ALPHABET = 512


@dataclass(frozen=True)
class ModelPlan:
    """One model to train: its resolved configuration and what is expected of it."""

    config: Config
    parameters: int
    tokens: int
    seconds: float
    memory_bytes: int
    expected_bits_per_byte: float
    why: str
    pace: float = 1.0  # times the measured seconds that its steps are expected to take

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def steps(self) -> int:
        """How many the time allows; the clock may end it before max_iters."""
        return self.tokens // self.config.tokens_per_step

    @property
    def is_hopeless(self) -> bool:
        """Whether it will be ended while it still warms up, with next to nothing learned."""
        return self.steps < min(self.config.training.max_iters, self.config.training.warmup_iters + LEAST_AFTER_WARMUP)

    @property
    def seconds_needed(self) -> float:
        """For enough steps to learn something."""
        return self.config.training.enough_steps * self.seconds / self.steps

    def facts(self) -> PlannedModel:
        model, training = self.config.model, self.config.training
        return PlannedModel(
            name=self.name,
            parameters=self.parameters,
            n_layer=model.n_layer,
            n_head=model.n_head,
            n_embd=model.n_embd,
            block_size=model.block_size,
            tokenizer=self.config.data.tokenizer,
            precision="bfloat16" if self.config.device.mixed_precision else "float32",
            batch_size=training.batch_size,
            gradient_accumulation=training.gradient_accumulation,
            max_iters=training.max_iters,
            tokens=self.tokens,
            seconds=round(self.seconds, 1),
            memory_bytes=self.memory_bytes,
            expected_bits_per_byte=round(self.expected_bits_per_byte, 3),
            why=self.why,
            pace=round(self.pace, 3),
        )


@dataclass(frozen=True)
class Plan:
    """`phase_seconds` are by the names of the phases; one that is not there takes no time that is known."""

    budget_seconds: float
    ladder: list[ModelPlan]
    left_out: list[LeftOut]
    phase_seconds: dict[str, float]
    text: PlannedText | None = None  # where the planner chose it

    @property
    def most_tokens(self) -> int:
        """Of the text that one of its models reads."""
        return max(model.tokens for model in self.ladder)

    def facts(self, phases: Sequence[str]) -> Planned:
        rows = [
            PlannedPhase(number, name.capitalize(), round(self.phase_seconds.get(name, 0.0), 1))
            for number, name in enumerate(phases, 1)
        ]
        return Planned(self.budget_seconds, [model.facts() for model in self.ladder], self.left_out, rows, self.text)


def tokenizer_for(asked: str, corpus_bytes: int, alphabet_size: int) -> str:
    """`auto` resolved: characters for small data with a small alphabet, BPE for the rest; 0: nobody knows it."""
    if asked != "auto":
        return asked
    small = corpus_bytes <= SMALL_DATA_BYTES and 0 < alphabet_size <= LARGEST_ALPHABET
    return "char" if small else "bpe"


def starved(parameters: int, corpus: Corpus) -> str | None:
    """Why there is too little text for a model of so many parameters, or None."""
    ratio = parameters / corpus.train_tokens
    if ratio <= MOST_PARAMETERS_PER_TOKEN:
        return None
    return (
        f"has {ratio:,.0f} parameters for each of the {corpus.train_tokens:,} tokens to learn from; with more than "
        f"{MOST_PARAMETERS_PER_TOKEN} it would learn the text by heart"
    )


def hopeless(
    name: str,
    parameters: int,
    measured: Sequence[Speed],
    step_tokens: dict[str, int],
    seconds: float,
    corpus: Corpus,
) -> str | None:
    """Why the model `name`, larger than those `measured`, smallest first, need not be measured too, or None: even at
    an optimistic rate it would be worse than the best of them after `seconds` of training."""
    seen = {speed.name: int(seconds / speed.seconds_per_step * step_tokens[speed.name]) for speed in measured}
    expected = {
        speed.name: corpus.bits_per_byte(speed.parameters, seen[speed.name], step_tokens[speed.name])
        for speed in measured
    }
    best = min(expected, key=expected.__getitem__)
    rates = [speed.flops_per_second for speed in measured]
    gain = max(1.0, rates[-1] / rates[-2]) if len(rates) > 1 else math.inf
    rate = max(rates) * min(OPTIMISM, OPTIMISM_OF_GAIN * gain)
    tokens = max(1, int(seconds * rate / (6 * parameters)))
    reach = corpus.bits_per_byte(parameters, tokens, step_tokens[name])
    if reach <= corpus.law.alike * expected[best]:
        return None
    return (
        f"even at {flops(rate)} it would see only {count(tokens)} tokens in {duration(seconds)} and reach about "
        f"{reach:.2f} bits per byte; {best} reaches about {expected[best]:.2f} in that time"
    )


def make_plan(
    candidates: Sequence[Config],
    speeds: dict[str, Speed],
    unmeasured: dict[str, str],
    budget: float,
    phases: dict[str, float],
    corpus: Corpus,
    training_bytes: int,
    fixed: bool,
    pinned: frozenset[str],
    trained: Sequence[ModelPlan] = (),
    seconds: float | None = None,
    begun: Mapping[str, TrainingConfig] = MappingProxyType({}),
) -> Plan:
    """The models to train in `budget` seconds, of which other phases take `phases` (flows.planning.budget_shares), in
    `training_bytes` of memory.

    In the middle of the training a plan is made again: `trained` are done, and stay as they are or continue; `seconds`
    are for the whole training, theirs included. `begun`: the settings of models that an earlier plan began; they get no
    fewer steps, with which they would be other trainings. Raises UserError when the data cannot feed even the smallest
    model.
    """
    measured = [config for config in candidates if config.name in speeds]
    found = {config.name: _obstacle(config, speeds[config.name], corpus, training_bytes) for config in measured}
    obstacles = {name: obstacle for name, obstacle in found.items() if obstacle}
    possible = [config for config in measured if config.name not in obstacles]
    if not possible:
        raise UserError("; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items()))

    begun = {**begun, **{model.name: model.config.training for model in trained}}
    planner = _Planner(speeds, corpus, pinned, fixed, {model.name: model for model in trained}, begun)
    seconds = budget_shares.training_seconds(budget, phases) if seconds is None else seconds
    ladder = planner.ladder(possible, seconds)
    chosen = {model.name for model in ladder}
    outdone = {
        config.name: planner.why_not(config, seconds, ladder) for config in possible if config.name not in chosen
    }
    reasons, considered = {**unmeasured, **obstacles, **outdone}, [config.name for config in candidates]
    smaller = [name for name in unmeasured if name not in considered]  # tried in the place of those, largest first
    left_out = [LeftOut(name, reasons[name]) for name in [*reversed(smaller), *considered] if name in reasons]
    training = sum(model.seconds + CHILD_SECONDS for model in ladder)
    judging = sum(judging_seconds(model.config, speeds[model.name], corpus) for model in ladder)
    seconds_of = {**phases, "evaluation": phases["evaluation"] + judging, "training": training}
    return Plan(budget, ladder, left_out, seconds_of)


@dataclass(frozen=True)
class _Planner:
    """Models sized to seconds of training, by what was measured of each."""

    speeds: dict[str, Speed]
    corpus: Corpus
    pinned: frozenset[str]  # settings that a person made: they stay
    fixed: bool  # the whole model is as a person wrote it
    trained: dict[str, ModelPlan]
    begun: Mapping[str, TrainingConfig]  # what is trained among them

    def ladder(self, candidates: list[Config], seconds: float) -> list[ModelPlan]:
        """The small one first, then the largest expected to predict about as well as any in the time left. What is
        trained stays, and the last of it takes the place of the small one."""
        if self.fixed:
            config = candidates[0]
            return [self.sized(config, self.left_for(config, seconds), "the model that --config names")]
        trained = [config for config in candidates if config.name in self.trained]
        if not trained:
            return self.first_then_best(self.from_first_proof(candidates, seconds), seconds)
        before, last = [self.trained[config.name] for config in trained[:-1]], trained[-1]
        spent = sum(model.seconds + self.aside(model.config) for model in before)
        left = max(self.trained[last.name].seconds, seconds - spent)
        return [*before, *self.first_then_best(candidates[candidates.index(last) :], left)]

    def first_then_best(self, candidates: list[Config], seconds: float) -> list[ModelPlan]:
        """The first of them as a first proof, and then the best in the time left; or the first alone."""
        first, *larger = candidates
        done = self.trained.get(first.name)
        why = "it gets the whole training time: no larger one to choose from would be better"
        alone = self.sized(first, self.left_for(first, seconds), why)
        if done and alone.config.training.max_iters < WORTH_CONTINUING * done.config.training.max_iters:
            alone = done
        proof, rest = self.first_proof(first, seconds)
        if done and rest < budget_shares.LEAST_SECONDS:
            return [done]
        others = [self.largest(config, rest) for config in larger]
        least = min(model.expected_bits_per_byte for model in [alone, *others])
        good = self.corpus.law.alike * least
        best = [model for model in [alone, *others] if model.expected_bits_per_byte <= good][-1]
        return [alone] if best is alone else self.in_turn(proof, larger[: others.index(best) + 1], rest, good)

    def first_proof(self, config: Config, seconds: float) -> tuple[ModelPlan, float]:
        """`config` in its share of the time, or as it is trained, and the seconds that are left then."""
        proof = self.trained.get(config.name) or self.proof(config, seconds, "the first proof: small and soon done")
        return proof, self.left_for(config, seconds) - proof.seconds

    def from_first_proof(self, candidates: list[Config], seconds: float) -> list[Config]:
        """Without those that are smaller than the first proof: the largest that sees FED tokens for each parameter in
        its share of the time, none of them twice; the smallest where none does."""

        def is_fed(config: Config) -> bool:
            tokens = FED * self.speeds[config.name].parameters
            return self.seconds_to_feed(config) <= seconds * FIRST_SHARE and tokens <= self.corpus.train_tokens

        fed = [place for place, config in enumerate(candidates) if is_fed(config)]
        return candidates[max(fed, default=0) :]

    def proof(self, config: Config, seconds: float, why: str) -> ModelPlan:
        """`config` in its share of `seconds`, or in what feeds it where that is less: the rest is for larger models."""
        least = self.least_steps(config) * self.speeds[config.name].expected_seconds_per_step
        enough = max(self.seconds_to_feed(config), least) / (1 - BETWEEN_SHARE)
        return self.sized(config, min(FIRST_SHARE * seconds, max(budget_shares.LEAST_SECONDS, enough)), why)

    def seconds_to_feed(self, config: Config) -> float:
        """Seconds of steps in which `config` sees FED tokens for each of its parameters."""
        speed = self.speeds[config.name]
        return FED * speed.parameters / config.tokens_per_step * speed.expected_seconds_per_step

    def in_turn(self, first: ModelPlan, larger: list[Config], seconds: float, enough: float) -> list[ModelPlan]:
        """`first`, then the last of `larger` in `seconds`; before it those between, each with its share, where each is
        expected to be better than the one before, without seeing a text twice, and the last reaches `enough` bits per
        byte all the same."""
        *between, last = larger
        ladder, left = [first], seconds
        for config in between:
            step = self.proof(config, left, "the next in turn: better than the one before")
            remains = left - step.seconds - self.aside(config)
            is_better = step.expected_bits_per_byte < ladder[-1].expected_bits_per_byte
            if is_better and remains >= left / 2 and step.tokens <= self.corpus.train_tokens:
                ladder.append(step)
                left = remains
        if len(ladder) > 1 and (best := self.largest(last, left)).expected_bits_per_byte <= enough:
            return [*ladder, best]
        return [first, self.largest(last, seconds)]

    def largest(self, config: Config, seconds: float) -> ModelPlan:
        return self.sized(config, self.left_for(config, seconds), "the largest that the time left can feed well")

    def left_for(self, config: Config, seconds: float) -> float:
        """Of `seconds`, what is left for training itself: a process has to start, and the model will be judged."""
        return max(seconds / 2, seconds - self.aside(config))

    def aside(self, config: Config) -> float:
        """Seconds of a model's process and of judging it."""
        return CHILD_SECONDS + judging_seconds(config, self.speeds[config.name], self.corpus)

    def sized(self, config: Config, seconds: float, why: str) -> ModelPlan:
        """`config` sized to `seconds`: steps, intervals, precision, weight decay; what a person has set stays."""
        speed = self.speeds[config.name]
        if config.training.max_seconds is not None:
            seconds = min(seconds, config.training.max_seconds)
        decay = self.weight_decay(config, speed, seconds)
        step_tokens = config.tokens_per_step
        between = seconds * BETWEEN_SHARE
        for _ in range(2):  # what is done between the steps depends on their number, a little
            stepping = max(0.0, seconds - between)
            possible = stepping / speed.expected_seconds_per_step  # less than one, of a model that is far too large
            steps_by_time = max(1.0, possible)
            at_best = max(steps_by_time, stepping / speed.seconds_per_step)  # the clock ends it where the pace is worse
            more = KINDER if config.training.schedule == "wsd" else 1.0
            max_iters = max(self.least_steps(config), int(min(more * at_best, self.most_steps(config))))
            expected = min(max_iters, math.ceil(steps_by_time))
            intervals = self.intervals(config, speed, expected)
            wanted = {"training.max_iters": max_iters, **intervals, "training.weight_decay": decay}
            sized = config.with_changes(self.undecided(wanted))
            between = min(seconds / 2, seconds_between_steps(sized, speed, self.corpus, expected))
        max_iters = sized.training.max_iters
        needed = max_iters * speed.expected_seconds_per_step + seconds_between_steps(sized, speed, self.corpus)
        # A fixed number of steps that fits the time needs no clock: the weights then depend on the steps alone.
        steps_are_given = self.fixed or "training.max_iters" in self.pinned
        free_of_clock = steps_are_given and needed <= seconds and config.training.max_seconds is None
        changes: dict[str, object] = {
            "training.max_seconds": None if free_of_clock else round(seconds, 1),
            "device.mixed_precision": speed.mixed_precision,
            "device.threads": speed.threads,
            "device.attention": speed.attention,
            "device.newton_schulz": speed.newton_schulz,
        }
        if speed.batch_size is not None and not self.pinned & STEP_SPLIT:
            changes["training.batch_size"] = speed.batch_size
            changes["training.gradient_accumulation"] = speed.gradient_accumulation
        if speed.gradient_checkpointing:
            changes["device.gradient_checkpointing"] = True
        if speed.compiled:
            changes["device.compile"] = True
        if speed.longest_window:
            changes["device.longest_window"] = speed.longest_window
        sized = sized.with_changes({key: value for key, value in changes.items() if key not in self.pinned})
        tokens = max(1, min(max_iters, int(steps_by_time))) * step_tokens  # the clock may end it before max_iters
        likely = max(LEAST_OF_A_STEP, min(max_iters, possible)) * step_tokens
        return ModelPlan(
            config=sized,
            parameters=speed.parameters,
            tokens=tokens,
            seconds=min(needed, seconds),
            memory_bytes=speed.peak_memory_bytes,
            expected_bits_per_byte=self.corpus.bits_per_byte(speed.parameters, likely, step_tokens),
            why=why,
            pace=speed.pace,
        )

    def least_steps(self, config: Config) -> int:
        """Warm-up and a few; a training that has begun gets more steps, never fewer."""
        begun = self.begun.get(config.name)
        return max(config.training.warmup_iters + LEAST_AFTER_WARMUP, begun.max_iters if begun else 0)

    def most_steps(self, config: Config) -> float:
        """As many as a person has set, else as the text is worth."""
        if "training.max_iters" in self.pinned:
            return config.training.max_iters
        return max(self.least_steps(config), MOST_EPOCHS * self.corpus.train_tokens / config.tokens_per_step)

    def undecided(self, changes: dict[str, object]) -> dict[str, object]:
        """Those of `changes` that no person has decided."""
        return {} if self.fixed else {key: value for key, value in changes.items() if key not in self.pinned}

    def intervals(self, config: Config, speed: Speed, max_iters: int) -> dict[str, object]:
        """How often to evaluate, to write samples and to save, so that each costs its share at most."""
        stepping = max_iters * speed.seconds_per_step

        def times(share: float, cost: float, least: int, most: int) -> int:
            return max(least, min(most, int(stepping * share / max(cost, 1e-6))))

        evaluation, samples = evaluation_seconds(config, speed, self.corpus), samples_seconds(config, speed)
        evaluations = times(EVALUATION_SHARE, evaluation, 2, MOST_EVALUATIONS)
        rounds_of_samples = times(SAMPLE_SHARE, samples, 1, MOST_SAMPLES)
        between_saves = max(_checkpoint_seconds(stepping), speed.save_seconds / SAVE_SHARE)
        return {
            "training.eval_interval": -(-max_iters // evaluations),
            "training.sample_interval": -(-max_iters // rounds_of_samples),
            "training.log_interval": max(1, max_iters // 400),
            "training.checkpoint_interval": max(1, int(between_saves / speed.seconds_per_step)),
            "training.checkpoint_minutes": max(config.training.checkpoint_minutes, round(between_saves / 60, 1)),
        }

    def weight_decay(self, config: Config, speed: Speed, seconds: float) -> float:
        """More than the config's own for a model that would learn the text by heart."""
        steps = min(seconds / speed.seconds_per_step, self.most_steps(config))
        begun = self.begun.get(config.name)
        if begun and (config.name in self.trained or KINDER * steps <= begun.max_iters):
            return begun.weight_decay
        tokens = steps * config.tokens_per_step
        needed = weight_decay.needed(config, speed.parameters, tokens, self.corpus.train_tokens)
        return max(config.training.weight_decay, needed)

    def why_not(self, config: Config, seconds: float, ladder: list[ModelPlan]) -> str:
        first, best = ladder[0], ladder[-1]
        if self.speeds[config.name].parameters < first.parameters:
            return (
                f"the first can be larger: in {percent(FIRST_SHARE)} of the time {first.name} sees {FED} tokens for "
                "each of its parameters"
            )
        _, rest = self.first_proof(first.config, seconds)
        model = self.largest(config, max(rest, budget_shares.LEAST_SECONDS))
        is_as_good = model.expected_bits_per_byte <= best.expected_bits_per_byte
        within = percent(self.corpus.law.alike - 1, 0)
        equal = f", which counts as equal (within {within}), and is larger" if is_as_good else ""
        return (
            f"in {duration(model.seconds)} it would see {count(model.tokens)} tokens and reach about "
            f"{model.expected_bits_per_byte:.2f} bits per byte; {best.name} reaches about "
            f"{best.expected_bits_per_byte:.2f}{equal}"
        )


def _checkpoint_seconds(training: float) -> float:
    """Between checkpoints: what a kill may cost. 15 s in a short run, two minutes in a long one."""
    return min(120.0, max(15.0, training / 20))


def _obstacle(config: Config, speed: Speed, corpus: Corpus, training_bytes: int) -> str | None:
    shortest = min(corpus.val_tokens, corpus.train_tokens)
    if shortest <= config.model.block_size:
        return (
            f"model.block_size {config.model.block_size} is longer than the validation text of about "
            f"{shortest:,} tokens; a longer text or a smaller model.block_size is needed"
        )
    return too_much(speed.peak_memory_bytes, training_bytes)


def too_much(peak_bytes: int, training_bytes: int) -> str | None:
    """Why a model that took so much memory when it was measured is not trained, or None."""
    if peak_bytes <= training_bytes:
        return None
    return f"took {byte_size(peak_bytes)} of memory; a training may take {byte_size(training_bytes)}"
