"""The speed of each model that might be trained, measured here: real steps, and what happens between them.

Only a lack of memory makes a model smaller or leaves it out; what else ends a measurement is somebody else's to mend.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from flows.context.journal import Journal
from flows.context.options import RunOptions
from flows.ledger.facts import Measured, MeasuredModel, TextTokens
from flows.planning import budget_shares, planner
from flows.planning.candidates import candidates
from flows.planning.footprint import disk_needed_by_run, fitted, memory_needed, smallest
from flows.planning.forecast import Corpus, Speed
from flows.planning.memory_limits import MemoryLimits
from flows.planning.site import Site
from nanogpt.config import Config
from nanogpt.faults import DEVICE, DISK_FULL, OUT_OF_MEMORY, UserError, classify
from nanogpt.fit import Fit
from nanogpt.measure.sizes import parameters
from nanogpt.process.endings import STALL
from nanogpt.process.worker import Worker, WorkerDied
from nanogpt.results.speed import CompiledSpeed, FastestMicroBatch, Rehearsal, StepSpeed
from nanogpt.units import byte_size, count, duration, number

CHOOSING_SHARE = 0.6  # of the time of a measurement for precision and threads; the rest is for the speed itself
PATIENCE = 300.0  # seconds; a step of the largest model may take long
# What remains on MPS where a process died as it timed what may be faster there: that may have been to blame.
PLAINEST = {"device.mixed_precision": False, "device.newton_schulz": "float32", "device.attention": "sdpa"}
QUICK_STEP = 0.5  # seconds; what takes longer is not measured twice
LEAST_GAIN = 0.03  # of a step by torch.compile: repeated measurements differ by as much
COMPILED_TWICE = 2.0
STEP = "configuration.measure"
NEXT_SMALLER = "the next smaller model"  # the remedy where one does not fit into memory


@dataclass(frozen=True)
class Measurement:
    """What the models of `options` are measured with, and what they are to learn from.

    `training_seconds`: what the other phases leave of the budget; `folder` is the run's own state, next to which all
    runs keep what they found. `written`: bytes that the run has put on the disk so far.
    """

    options: RunOptions
    site: Site
    corpus: Corpus
    tokens: TextTokens
    training_seconds: float
    folder: Path
    worker: Worker
    limits: MemoryLimits
    journal: Journal
    written: int = 0

    def measure(self) -> Measured:
        """Every candidate, smallest first; where none of those asked for fits into memory, the next smaller shipped one
        in their place.

        Raises MemoryError when not even the smallest fits, and what ends a measurement for another reason.
        """
        models: dict[str, MeasuredModel] = {}
        unmeasured: dict[str, str] = {}
        for config in candidates(self.options):
            if models and config.name not in self.options.candidate_names:
                break
            config = self.settle(config)
            if models:
                config = self._as_fast_for_smaller(config, list(models.values())[-1])
            alone = not models
            reason = self._does_not_fit(config, alone) or self._not_worth_it(config, models)
            if reason:
                unmeasured[config.name] = reason
                continue
            try:
                measured = self.measure_one(config, cut_windows=alone)
            except (WorkerDied, RuntimeError, MemoryError) as error:
                if not self._is_of_this_model(error, alone):
                    raise
                unmeasured[config.name] = f"cannot be trained here: {error}"
                continue
            if alone and (reason := planner.too_much(measured.peak_memory_bytes, self.site.training_bytes)):
                unmeasured[config.name] = reason
                continue
            models[config.name] = measured
            self._report(config.name, measured)
        self._require_one(models, unmeasured)
        return Measured(self._smallest_again(models), unmeasured)

    def _smallest_again(self, models: dict[str, MeasuredModel]) -> dict[str, MeasuredModel]:
        """`models`, with the faster of two measurements of the smallest: the first meets the start of the run's own
        pages, which cost micro 7 % of its tokens a second (docs/plan.md)."""
        name, before = next(iter(models.items()))
        if before.seconds_per_step > QUICK_STEP:
            return models
        [config] = [config for config in candidates(self.options) if config.name == name]
        config = self.settle(config)
        fit = replace(
            Fit.of(config),
            micro_batch=before.batch_size,
            gradient_checkpointing=before.gradient_checkpointing,
            longest_window=before.longest_window,
        )
        seconds = (1 - CHOOSING_SHARE) * budget_shares.measure_seconds(self.options.config.budget)
        try:
            speed = self._rehearse(with_settings_of(before, fit.applied_to(config)), seconds)
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if classify(error) == DISK_FULL or self._is_of_device(error):
                raise
            self.journal.log(f"{name} was not measured again: {error}", "warning")
            return models
        if speed.seconds_per_step >= before.seconds_per_step:
            return models
        self.journal.message(f"{name}, measured again: {number(speed.tokens_per_second, 0)} tokens/s")
        # The peak is its own alone in the first: of some systems a process can ask for no other than that of its life.
        kept = {"choices": before.choices, "peak_memory_bytes": before.peak_memory_bytes}
        again = replace(before, **{**asdict(speed), **kept})
        return {**models, name: again}

    def settle(self, config: Config) -> Config:
        """`config` with its tokenizer, vocabulary and device, near enough for a measurement."""
        of_text = {"data.tokenizer": self.tokens.tokenizer, "data.bpe_vocab_size": self.tokens.vocabulary}
        return self.site.settle(config.with_changes(of_text))

    def measure_one(self, config: Config, cut_windows: bool = False) -> MeasuredModel:
        """The speed of `config`, as it fitted before and made smaller until it fits now; the effective batch stays.

        `cut_windows`: no smaller model has fitted, so that windows may be cut too.
        """
        config = self.limits.as_it_fitted(config, self.site)
        config = fitted(config, self.site.device, self.site.training_bytes, cut_windows) or config
        while True:
            try:
                speed = self._measure_once(config)
                break
            except (WorkerDied, RuntimeError, MemoryError) as error:
                block_size = config.model.block_size if cut_windows else None
                smaller = Fit.of(config).smaller(config.training.sequences_per_step, block_size)
                if smaller is None or not is_out_of_memory(error):
                    raise
                self.journal.message(f"{config.name}: out of memory with {Fit.of(config)}; now {smaller}", "warning")
                config = smaller.applied_to(config)
        training, device = config.training, config.device
        return MeasuredModel(
            **asdict(speed),
            batch_size=training.batch_size,
            gradient_accumulation=training.gradient_accumulation,
            gradient_checkpointing=device.gradient_checkpointing,
            longest_window=device.longest_window,
            micro_batch=training.batch_size,
        )

    def faster_micro_batch(self, chosen: Config, measured: MeasuredModel) -> MeasuredModel:
        """The speed of `chosen` with the fastest micro-batch, searched for a while and kept for later runs;
        `measured` where none is faster."""
        config = self.site.settle(chosen)
        sequences = config.training.sequences_per_step
        seconds = budget_shares.micro_batch_seconds(self.options.config.budget)
        try:
            found: FastestMicroBatch = self.worker.call(
                "nanogpt.measure.batch_finder:find_for",
                config=config.model_dump(),
                folder=str(self.folder.parent),
                seconds=seconds,
                timeout=PATIENCE,
            )
            divisors = [row for row in found.tried if row.fits and sequences % row.micro_batch == 0]
            best = max(divisors, key=lambda row: row.tokens_per_second or 0.0)
            is_faster = (best.tokens_per_second or 0.0) > measured.tokens_per_second
            if best.micro_batch == measured.batch_size or not is_faster:
                return measured  # a search that had no time for more knows of nothing faster
            speed = self.measure_one(replace(Fit.of(config), micro_batch=best.micro_batch).applied_to(config))
        except (WorkerDied, RuntimeError, MemoryError, UserError, ValueError) as error:
            if not self._is_of_this_model(error, alone=False):
                raise
            batch = config.training.batch_size
            self.journal.message(f"{config.name}: the micro-batch stays {batch}: {error}", "warning")
            return measured
        if speed.seconds_per_step >= measured.seconds_per_step:
            return measured
        rate = number(speed.tokens_per_second, 0)
        self.journal.message(f"{config.name}: micro-batches of {speed.batch_size} are faster: {rate} tokens/s")
        return speed

    def with_compiler(self, chosen: Config, measured: MeasuredModel, seconds: float) -> MeasuredModel:
        """`measured`, with the speed of compiled steps where they gain more in `seconds` of training than compiling
        costs: LEAST_GAIN of a step, and COMPILED_TWICE the seconds of compiling, because a start that resumes compiles
        again. How it was decided stands in `compiling`."""
        config = self.site.settle(chosen)
        try:
            tried: CompiledSpeed = self.worker.call(
                "nanogpt.measure.compiling:compare_compiled",
                config=config.model_dump(),
                device=self.site.device,
                seconds=budget_shares.measure_seconds(self.options.config.budget),
                timeout=PATIENCE,
            )
        except (WorkerDied, RuntimeError, MemoryError) as error:
            if classify(error) == DISK_FULL or self._is_of_device(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            return replace(measured, compiling=f"not compiled: torch.compile failed here ({reason})")
        saved = seconds * (1 - tried.share)
        figures = (
            f"a step takes {1e3 * tried.seconds_per_step:.1f} ms instead of "
            f"{1e3 * tried.eager_seconds_per_step:.1f}, and compiling {tried.compile_seconds:.0f} s"
        )
        if 1 - tried.share < LEAST_GAIN or saved < COMPILED_TWICE * tried.compile_seconds:
            gain = f"{duration(saved)} of {duration(seconds)} would be saved" if saved > 0 else "nothing is saved"
            return replace(measured, compiling=f"not compiled: {figures}; {gain}")
        return replace(
            measured,
            seconds_per_step=measured.seconds_per_step * tried.share,
            tokens_per_second=measured.tokens_per_second / tried.share,
            flops_per_second=measured.flops_per_second / tried.share,
            peak_memory_bytes=max(measured.peak_memory_bytes, tried.peak_memory_bytes),
            compiled=True,
            compile_seconds=tried.compile_seconds,
            compiling=f"compiled: {figures}; {duration(saved)} of {duration(seconds)} are saved",
        )

    @property
    def may_compile(self) -> bool:
        """Whether compiling could pay, and nobody has decided: on MPS it trained to NaN without an error (pytorch
        #171764)."""
        decided = self.options.fixed or "compile" in self.options.config.device.model_fields_set
        has_time = self.options.config.budget >= budget_shares.BUDGET_FOR_COMPILING
        return has_time and not decided and self.site.device in ("cpu", "cuda")

    @property
    def may_split_otherwise(self) -> bool:
        """Whether the planner may choose the micro-batch, and has the time to search for it."""
        decided = self.options.fixed or bool(self.options.pinned & planner.STEP_SPLIT)
        return self.options.config.budget >= budget_shares.BUDGET_FOR_MICRO_BATCHES and not decided

    def _as_fast_for_smaller(self, config: Config, smaller: MeasuredModel) -> Config:
        """With what gains for a smaller model already: larger products gain more by half precision and by threads. On
        MPS that is not known."""
        if self.site.device == "mps":
            return config
        gains: dict[str, object] = {"device.mixed_precision": True} if smaller.mixed_precision is True else {}
        if config.device.threads is None and smaller.threads > 1:
            gains["device.threads"] = smaller.threads
        return config.with_changes(gains)

    def _is_open(self, config: Config) -> bool:
        """Whether there is something to compare before the speed is measured."""
        device, settings = self.site.device, config.device
        return device == "mps" or settings.mixed_precision == "auto" or (device == "cpu" and settings.threads is None)

    def _measure_once(self, config: Config) -> Rehearsal:
        seconds = budget_shares.measure_seconds(self.options.config.budget)
        if not self._is_open(config):
            return self._rehearse(config, seconds)
        chosen = self._choose_safely(config, CHOOSING_SHARE * seconds)
        speed = self._rehearse(with_settings_of(chosen, config), (1 - CHOOSING_SHARE) * seconds)
        return replace(speed, choices=chosen.choices)

    def _rehearse(self, config: Config, seconds: float) -> Rehearsal:
        speed: Rehearsal = self.worker.call(
            "nanogpt.measure.rehearsal:rehearse",
            config=config.model_dump(),
            device=self.site.device,
            folder=str(self.folder),
            seconds=seconds,
            timeout=PATIENCE,
        )
        return speed

    def _choose_safely(self, config: Config, seconds: float) -> StepSpeed:
        """Where that ends the process on MPS, the plainest settings are measured alone."""
        try:
            return self._choose(config, seconds)
        except WorkerDied as error:
            plain = config.with_changes(PLAINEST)
            if self.site.device != "mps" or config == plain or error.symptom not in (DEVICE, STALL):
                raise
            self.journal.record(STEP, DEVICE, f"{config.name}: {error}", "time float32 alone", "in a fresh process")
            return self._choose(plain, seconds)

    def _choose(self, config: Config, seconds: float) -> StepSpeed:
        chosen: StepSpeed = self.worker.call(
            "nanogpt.measure.profiler:choose_precision_and_threads",
            config=config.model_dump(),
            device=self.site.device,
            seconds=seconds,
            timeout=PATIENCE,
        )
        return chosen

    def _does_not_fit(self, config: Config, alone: bool) -> str | None:
        """Why `config` need not be tried for memory alone: it, or a smaller one, did not fit before, or is not
        predicted to fit. `alone`: no smaller one has fitted, so that its windows may be cut."""
        before = self.limits.too_large([self.settle(other) for other in self.options.candidates] + [config], self.site)
        if config.name in before:
            return before[config.name]
        size = parameters(config.model).total
        for other in self.options.candidates:
            if other.name in before and parameters(self.settle(other).model).total < size:
                return f"is larger than {other.name}, which {before[other.name]}"
        if fitted(config, self.site.device, self.site.training_bytes, alone) is None:
            least = memory_needed(smallest(config, alone), self.site.device)
            return (
                f"is predicted to need {byte_size(least)} even with one sequence at a time; a training may take "
                f"{byte_size(self.site.training_bytes)}"
            )
        return None

    def _not_worth_it(self, config: Config, models: dict[str, MeasuredModel]) -> str | None:
        """What speaks against `config` before a step of it is tried: disk, too little text or too little time. The
        first model is always tried."""
        if not models:
            return None
        free = shutil.disk_usage(self.folder).free
        first = next(candidate for candidate in candidates(self.options) if candidate.name in models)
        needed = disk_needed_by_run([self.settle(first), config], self.corpus.bytes) - self.written
        if needed > free:
            return f"a run with it would write {byte_size(needed)} more; {byte_size(free)} of the disk are free"
        size = parameters(config.model).total
        if reason := planner.starved(size, self.corpus):
            return reason
        measured = [Speed.of(name, facts) for name, facts in models.items()]
        step_tokens = {candidate.name: candidate.tokens_per_step for candidate in self.options.candidates}
        return planner.hopeless(config.name, size, measured, step_tokens, self.training_seconds, self.corpus)

    def _is_of_this_model(self, error: Exception, alone: bool) -> bool:
        """Whether `error` leaves out this model alone; else the whole measurement fails."""
        if is_out_of_memory(error):
            return True
        if classify(error) == DISK_FULL or self._is_of_device(error):
            return False
        if isinstance(error, WorkerDied):
            return error.symptom == STALL and not alone  # too slow to be measured
        return not alone

    def _is_of_device(self, error: Exception) -> bool:
        """Whether it is the accelerator that fails, whatever the model: it says so, or it hangs."""
        if self.site.device == "cpu":
            return False
        return classify(error) == DEVICE or (isinstance(error, WorkerDied) and error.symptom in (STALL, DEVICE))

    def _require_one(self, models: dict[str, MeasuredModel], unmeasured: dict[str, str]) -> None:
        """A row in the report where what was asked for does not fit and a smaller model takes its place."""
        asked: Sequence[str] = self.options.candidate_names
        if set(asked) & models.keys():
            return
        if not models:
            raise MemoryError(
                f"no model fits into memory: {'; '.join(f'{name} {why}' for name, why in unmeasured.items())}"
            )
        evidence = f"{asked[0]} {unmeasured[asked[0]]}"
        self.journal.record(STEP, OUT_OF_MEMORY, evidence, NEXT_SMALLER, next(iter(models)))

    def _report(self, name: str, measured: MeasuredModel) -> None:
        threads = "1 thread" if measured.threads == 1 else f"{measured.threads} threads"
        rate = number(measured.tokens_per_second, 0)
        self.journal.message(
            f"{name}: {count(measured.parameters)} parameters, {rate} tokens/s in {measured.precision}, {threads}"
        )
        for choice in measured.choices:
            self.journal.message(f"{name}: {choice}")


def with_settings_of(speed: StepSpeed, config: Config) -> Config:
    """`config` as it was measured."""
    return config.with_changes(
        {
            "device.mixed_precision": speed.mixed_precision,
            "device.threads": speed.threads,
            "device.attention": speed.attention,
            "device.newton_schulz": speed.newton_schulz,
        }
    )


def is_out_of_memory(error: Exception) -> bool:
    """By the allocator's words, or by what is known of the death of the process that asked for too much."""
    return (error.symptom if isinstance(error, WorkerDied) else classify(error)) == OUT_OF_MEMORY
