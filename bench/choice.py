"""Whether the planner chooses well: python -m bench.choice --data FILE --seconds S [S ...] [--by-steps] [--write]

The planner's choice for S seconds of training, and models, batches and rates chosen by hand, each trained with all of
those seconds. What counts is bits per byte on the validation split. The planner also trains the models of its plan
before the last, so its last one has less time than the others.

Without `--by-steps` the trainings go by the clock, one after another, and want a quiet machine. With it, only the
speeds do (`--measure` ends after them, seconds for each choice): from them follow the steps that the time allows, and
those are trained on one thread, however busy the machine is.

Results are kept in docs/choice.json by kind of machine; what is there is not measured or trained again, so this may be
ended at any moment. `--write` makes the tables of docs/plan.md of it.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path

import numpy as np

from bench.predictions import rehearse, train, write
from bench.this_machine import this_machine
from flows.context.options import MODEL_CONFIGS
from flows.context.paths import CHECKOUT
from flows.ledger.facts import MeasuredModel
from flows.planning import planner
from flows.planning.budget_shares import by_experience
from flows.planning.footprint import with_vocabulary
from flows.planning.forecast import PLAYS, Corpus, Speed
from flows.planning.planner import ModelPlan
from nanogpt import durable
from nanogpt.config import Config, DataConfig, load_config
from nanogpt.corpus import preparation, tokenising
from nanogpt.measure.sizes import parameters
from nanogpt.records import from_json, to_json
from nanogpt.results.study import ScalingLaw, ScalingPoint
from nanogpt.study import scaling
from nanogpt.units import duration

RESULTS = CHECKOUT / "docs/choice.json"
BEGIN, END = "<!-- choice: python -m bench.choice --write -->\n", "<!-- end of choice -->\n"
PLENTY = 2**60  # bytes of memory: nothing is left out for want of it
CLOSE = 0.02  # of the best choice's bits per byte
PLANNER = "the planner's choice"
REPEAT_DECAYS = (0.5, 30.0, 42)  # of R*, least, most and how many are tried
# By hand: a shipped model, and what is changed in it.
BY_HAND = {
    "micro": ("micro", ""),
    "micro, batch 12": ("micro", "training.batch_size=12"),
    "micro, batch 48": ("micro", "training.batch_size=48"),
    "4 layers, 192 wide": ("tiny_model", "model.n_layer=4 model.n_embd=192 training.batch_size=12"),
    "mini_model": ("mini_model", ""),
    "mini_model, batch 12": ("mini_model", "training.batch_size=12"),
    "tiny_model": ("tiny_model", ""),
    "tiny_model, batch 12": ("tiny_model", "training.batch_size=12"),
    "compact_model": ("compact_model", ""),
}
CANDIDATES = [name for name, (_, changes) in BY_HAND.items() if not changes]  # from which the planner chooses
# But for the size; "6 layers, 192 wide" is mini_model before it was shipped, with higher rates.
AS_SHIPPED = (*CANDIDATES, "4 layers, 192 wide", "6 layers, 192 wide")


@dataclass(frozen=True)
class Trained:
    """One choice after its training."""

    model: str  # of configs/, or by hand as in BY_HAND
    parameters: int
    precision: str
    threads: int  # that its speed was measured with
    seconds_per_step: float
    seconds: float  # for its training
    steps: int
    tokens: int
    expected: float  # bits per byte, by the planner's law
    bits_per_byte: float
    by_steps: bool


@dataclass
class Machine:
    """What was found on one kind of machine."""

    speeds: dict[str, MeasuredModel] = field(default_factory=dict)
    trained: dict[int, dict[str, Trained]] = field(default_factory=dict)  # by seconds of training, by choice


Results = dict[str, Machine]


@dataclass(frozen=True)
class Text:
    """Tiny Shakespeare's characters in `folder`."""

    folder: Path
    corpus: Corpus
    alphabet: int

    @classmethod
    def prepared(cls, file: Path, folder: Path) -> "Text":
        settings = DataConfig()
        statistics = preparation.prepare([file], folder / "text", settings)
        tokenising.tokenise(folder / "text", "char", folder / "char", settings)
        alphabet = len(statistics.alphabet)
        corpus = Corpus(statistics.bytes, statistics.characters, alphabet, settings.val_fraction,
                        settings.test_fraction, statistics.bytes / statistics.characters)  # fmt: skip
        return cls(folder, corpus, alphabet)

    def config(self, model: str, changes: str = "") -> Config:
        """Of configs/, with the vocabulary of the text."""
        config = load_config(MODEL_CONFIGS / f"{model}.yaml", ["data.tokenizer=char", *changes.split()])
        return with_vocabulary(config, self.alphabet)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="tinyshakespeare.txt")
    parser.add_argument("--seconds", type=int, nargs="*", default=[], metavar="S", help="of training")
    parser.add_argument("--only", default="", metavar="TEXT", help="choices whose name holds TEXT")
    parser.add_argument("--measure", action="store_true", help="measure speeds alone, which wants a quiet machine")
    parser.add_argument("--again", action="store_true", help="measure speeds again")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="of measuring, by turns; the median counts")
    parser.add_argument("--by-steps", action="store_true", help="train the steps that the speeds allow, on one thread")
    parser.add_argument("--law", action="store_true", help="fit the planner's law to what is there, and compare")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/plan.md")
    given = parser.parse_args()
    if any(seconds < 1 for seconds in given.seconds):
        parser.error("--seconds: should be 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        text = Text.prepared(given.data.resolve(), Path(folder))
        bench = Bench(this_machine(), text, given.by_steps)
        if given.measure or given.seconds:
            bench.measure(given.only, given.again, given.rounds)
        for seconds in [] if given.measure else given.seconds:
            bench.train(seconds, given.only)
    if given.law:
        print("\n".join(fitted_law(read(), text.corpus)))
    if given.write:
        write("\n".join(tables(read())), BEGIN, END)
    return 0


@dataclass(frozen=True)
class Bench:
    """Measures and trains on this machine, each result kept as soon as it is there."""

    machine: str
    text: Text
    by_steps: bool

    def measure(self, only: str, again: bool, rounds: int) -> None:
        """The speed of each choice, as phase 3 does, each once in a round."""
        known = read().get(self.machine, Machine()).speeds
        wanted = [(name, config) for name, config in self.choices() if only in name and (again or name not in known)]
        measured: dict[str, list[MeasuredModel]] = {name: [] for name, _ in wanted}
        for name, config in wanted * rounds:
            measured[name].append(rehearse(config, self.text.folder))
            self.keep_speed(
                name, sorted(measured[name], key=attrgetter("seconds_per_step"))[(len(measured[name]) - 1) // 2]
            )

    def choices(self) -> Iterator[tuple[str, Config]]:
        """By hand; the shipped models, from which the planner chooses, are among them."""
        for name, (model, changes) in BY_HAND.items():
            yield name, self.text.config(model, changes)

    def train(self, seconds: int, only: str) -> None:
        """All choices for so many seconds of training; the planner's is often one of those by hand."""
        plans = list(self.plans(seconds))
        for name, model, plan in plans:
            done = read()[self.machine].trained.get(seconds, {})
            if plan.is_hopeless:
                print(f"{duration(seconds)}, {name}: not trained, it would still warm up", flush=True)
            elif only in name and name not in done:
                twin = next((other for other, _, same in plans if other in done and same.config == plan.config), None)
                self.keep_training(seconds, name, done[twin] if twin else self.trained(model, plan))

    def plans(self, seconds: int) -> Iterator[tuple[str, str, ModelPlan]]:
        """The name of a choice, its model and how it is trained."""
        speeds = {name: Speed.of(name, measured) for name, measured in read()[self.machine].speeds.items()}
        names = [name for name in CANDIDATES if name in speeds]
        chosen = self.plan([self.text.config(name) for name in names], speeds, seconds)[-1]
        yield PLANNER, chosen.name, chosen
        for name, config in self.choices():
            if name in speeds:
                by_hand = frozenset(change.partition("=")[0] for change in BY_HAND[name][1].split())
                [plan] = self.plan([config], {config.name: speeds[name]}, seconds, by_hand)
                yield name, name, plan

    def plan(
        self, candidates: list[Config], speeds: dict[str, Speed], seconds: int, pinned: frozenset[str] = frozenset()
    ) -> list[ModelPlan]:
        """As phase 3 plans, for a text and a machine with memory for all of them; settings that are `pinned` stay."""
        corpus = self.text.corpus
        fed = [config for config in candidates if planner.starved(parameters(config.model).total, corpus) is None]
        phases = by_experience(seconds, corpus.bytes)
        return planner.make_plan(
            fed, speeds, {}, seconds, phases, corpus, PLENTY, False, pinned, seconds=seconds
        ).ladder

    def trained(self, model: str, plan: ModelPlan) -> Trained:
        config = plan.config.with_changes(self.by_count(plan)) if self.by_steps else plan.config
        with tempfile.TemporaryDirectory(dir=self.text.folder) as folder:
            outcome = train(config, self.text.folder / "char", Path(folder))
        assert outcome.best_val_loss is not None
        speed = read()[self.machine].speeds[model]
        return Trained(
            model=model,
            parameters=plan.parameters,
            precision=outcome.precision,
            threads=speed.threads,
            seconds_per_step=speed.seconds_per_step,
            seconds=round(plan.seconds if self.by_steps else outcome.seconds, 1),
            steps=outcome.step,
            tokens=outcome.tokens,
            expected=round(plan.expected_bits_per_byte, 4),
            bits_per_byte=round(outcome.best_val_loss / math.log(2) / self.text.corpus.bytes_per_token, 4),
            by_steps=self.by_steps,
        )

    def by_count(self, plan: ModelPlan) -> dict[str, object]:
        """Settings with which a plan's steps are trained without a clock: judged at the end."""
        intervals = dict.fromkeys(("training.eval_interval", "training.sample_interval"), plan.steps)
        return {"training.max_iters": plan.steps, "training.max_seconds": None, "device.threads": 1, **intervals}

    def keep_speed(self, name: str, speed: MeasuredModel) -> None:
        results = read()
        results.setdefault(self.machine, Machine()).speeds[name] = speed
        self.keep(results, f"{name}: {1e3 * speed.seconds_per_step:.1f} ms a step")

    def keep_training(self, seconds: int, name: str, trained: Trained) -> None:
        results = read()
        results[self.machine].trained.setdefault(seconds, {})[name] = trained
        self.keep(results, f"{duration(seconds)}, {name}: {trained.steps:,} steps, {trained.bits_per_byte:.4f} bits")

    def keep(self, results: Results, line: str) -> None:
        durable.write_json(RESULTS, to_json(Kept(results)))
        print(line, flush=True)


# ---- what is kept, and the tables


@dataclass(frozen=True)
class Kept:
    machines: Results


def read() -> Results:
    return from_json(Kept, durable.read_json(RESULTS)).machines if RESULTS.exists() else {}


def tables(results: Results) -> Iterator[str]:
    """Markdown: each kind of machine, each time, the best choice first."""
    for machine, found in sorted(results.items()):
        for seconds, trained in sorted(found.trained.items()):
            yield from table(machine, seconds, trained)


def table(machine: str, seconds: int, trained: dict[str, Trained]) -> Iterator[str]:
    yield f"**{duration(seconds).capitalize()} of training** on {machine}. {verdict(trained)}"
    if any(row.by_steps for row in trained.values()):
        yield "Steps by the speed on a quiet machine; trained on one thread of a busy one."
    yield ""
    yield "| choice | parameters | ms a step | steps | tokens | expected | bits per byte |"
    yield "|---|---|---|---|---|---|---|"
    for name, row in sorted(trained.items(), key=lambda pair: pair[1].bits_per_byte):
        title = f"**{name}: {row.model}, {row.seconds:.0f} s**" if name == PLANNER else name
        yield (
            f"| {title} | {row.parameters:,} | {1e3 * row.seconds_per_step:.1f} ({row.precision}, {row.threads} "
            f"thread{'s' if row.threads > 1 else ''}) | {row.steps:,} | {row.tokens / 1e6:.2f} M | {row.expected:.3f} "
            f"| {row.bits_per_byte:.3f} |"
        )
    yield ""


def verdict(trained: dict[str, Trained]) -> str:
    """Whether the planner's choice is within 2 % of the best by hand."""
    by_hand = {name: row.bits_per_byte for name, row in trained.items() if name != PLANNER}
    if PLANNER not in trained or not by_hand:
        return "Not finished: there is nothing to compare yet."
    best = min(by_hand, key=by_hand.__getitem__)
    behind = trained[PLANNER].bits_per_byte / by_hand[best] - 1
    within = "within 2 %" if behind <= CLOSE else "not within 2 %"
    return (
        f"The planner's choice is {within} of the best of {len(by_hand)} by hand, {best}: "
        f"{100 * abs(behind):.1f} % {'worse' if behind > 0 else 'better'}."
    )


def fitted_law(results: Results, corpus: Corpus) -> Iterator[str]:
    """The law of docs/plan.md from all trainings with the settings of configs/, in bits per byte, next to today's.

    How soon repeated text fades (R* of Muennighoff et al. 2023, equation 5) is searched on a grid, the rest fitted to
    what the tokens are then worth.
    """
    rows = {
        f"{name}, {row.steps:,} steps": row
        for machine in results.values()
        for trained in machine.trained.values()
        for name, row in trained.items()
        if name in AS_SHIPPED
    }
    fits = [(decay, *fit_with(decay, rows, corpus)) for decay in np.geomspace(*REPEAT_DECAYS)]
    decay, law, residuals = min(fits, key=lambda fit: float(np.square(fit[2]).sum()))
    yield f"R* = {decay:.2f}, {law}"
    for (name, row), residual in zip(rows.items(), residuals, strict=True):
        today = corpus.bits_per_byte(row.parameters, row.tokens, row.tokens / row.steps) - row.bits_per_byte
        yield f"{name}: {row.bits_per_byte:.4f}; today's law {today:+.4f}, the fitted one {residual:+.4f}"


def fit_with(decay: float, rows: dict[str, Trained], corpus: Corpus) -> tuple[ScalingLaw, list[float]]:
    """The law where repeats fade with `decay`, and by how many bits per byte it is above each training."""
    law = replace(PLAYS, repeat_decay=decay)

    def worth(row: Trained) -> int:
        return int(law.worth(law.learned(row.tokens, row.tokens / row.steps), corpus.train_tokens))

    points = [
        ScalingPoint(name, row.parameters, worth(row), row.seconds, row.bits_per_byte) for name, row in rows.items()
    ]
    fitted = scaling.fit(points, scaling.BOTH)
    return fitted, [fitted.loss(point.parameters, point.tokens) - point.loss for point in points]


if __name__ == "__main__":
    sys.exit(main())
