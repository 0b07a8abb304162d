"""The law by which loss falls with parameters and data, fitted to a person's own trainings.

    L(N, D) = E + A / N^a + B / D^b        (Hoffmann et al. 2022, "Chinchilla", section 3.3)

E is what no model can save, A and a say what size brings, B and b what data brings. With the powers given, the law is
a sum of three known terms, so its factors are least squares without negative ones; the powers are searched on a grid
that is narrowed around its best point. The error is relative: a hundredth counts the same at every loss.
The uncertainty is a parametric bootstrap (Efron and Tibshirani 1993, section 6.5): the fitted losses are drawn anew
with the noise that is left after the fit, at least the seed's, and fitted again. To draw runs with replacement instead
would often leave fewer than the law has numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from nanogpt.faults import UserError
from nanogpt.results.quality import Estimate
from nanogpt.results.study import Prediction, ScalingLaw, ScalingPoint, ScalingStudy
from nanogpt.study.comparison import SEEDS
from nanogpt.study.runs import TrainedRun, distinct_names
from nanogpt.units import count, duration

BOTH, DATA, SIZE = "size and data", "data", "size"
FEWEST = {BOTH: 6, DATA: 4, SIZE: 4}  # runs: one more than the law has numbers
KINDS = 3  # different sizes, or numbers of tokens, that a power needs
ALIKE = 1.02  # times: sizes and numbers of tokens within it are the same
POWERS = (0.05, 1.5)  # where the powers are looked for; the literature's lie at 0.08 to 0.5
RIDGE = 1e-13  # of the terms' own size: two powers that are nearly the same must not divide by zero
GRID, ROUNDS = 12, 7  # points on each axis, and how often the grid is narrowed around its best point
DRAWS = 200
TIMES = 10
EPOCHS_AS_NEW = 4  # so often a text is worth nearly as much as new text (Muennighoff et al. 2023)

Floats = npt.NDArray[np.float64]


def scaling_study(runs: Sequence[TrainedRun]) -> ScalingStudy:
    """Fit what the finished ones of `runs` can carry, and say what TIMES as much time would give.

    Raises UserError where they are too few or too much alike, and where they learned from different texts.
    """
    points = _points(runs)
    form = _form(points)
    law = fit(points, form)
    error = _error(points, law, form)
    draws = _draws(points, law, form, error)
    parts = {name: _estimate(getattr(law, name), [getattr(each, name) for each in draws]) for name in _parts(form)}
    predictions = _predictions(points, law, _as_runs(draws, error), form)
    study = ScalingStudy(form, points, law, draws, error, parts, predictions, [])
    study.findings.extend(findings(study, _unique_tokens(runs)))
    return study


def _points(runs: Sequence[TrainedRun]) -> list[ScalingPoint]:
    """Of each training once, where it began with weights of its own: the law says nothing of fine-tuning."""
    from_scratch = {run.folder.resolve(): run for run in runs if run.config.training.init_from is None}
    finished = [run for run in from_scratch.values() if run.outcome and run.outcome.final_val_loss is not None]
    texts = {run.data.manifest_sha256: run.name for run in finished if run.data}
    if len(texts) > 1:
        first, second, *_ = texts.values()
        raise UserError(f"{first} and {second} learned from different tokens; one law is of one text and tokenizer")
    return [
        ScalingPoint(name, run.parameters, run.tokens, run.seconds, run.outcome.final_val_loss)
        for name, run in zip(distinct_names(finished), finished, strict=True)
        if run.outcome and run.outcome.final_val_loss is not None
    ]


def _form(points: Sequence[ScalingPoint]) -> str:
    """The law with as many parts as the points can carry. Raises UserError for too few."""
    sizes = _different([point.parameters for point in points])
    amounts = _different([point.tokens for point in points])
    if sizes >= KINDS and amounts >= KINDS and len(points) >= FEWEST[BOTH]:
        return BOTH
    if sizes == 1 and amounts >= FEWEST[DATA]:
        return DATA
    if amounts == 1 and sizes >= FEWEST[SIZE]:
        return SIZE
    raise UserError(
        f"found {len(points)} finished trainings from scratch (sizes: {sizes}, numbers of tokens: {amounts}); a law "
        "needs 4 numbers of tokens at one size, 4 sizes at one number of tokens, or 6 trainings of 3 sizes and 3 "
        "numbers of tokens"
    )


def _different(values: Sequence[int]) -> int:
    found: list[int] = []
    for value in sorted(values):
        if not found or value > ALIKE * found[-1]:
            found.append(value)
    return len(found)


# ---- the fit


@dataclass(frozen=True)
class _Sizes:
    """Parameters and tokens of the points, (points,) each, in units of the largest: powers of numbers near 1 keep their
    digits."""

    n: Floats
    d: Floats
    units: tuple[float, float]

    @classmethod
    def of(cls, points: Sequence[ScalingPoint]) -> _Sizes:
        n = np.array([point.parameters for point in points], dtype=np.float64)
        d = np.array([point.tokens for point in points], dtype=np.float64)
        return cls(n / n.max(), d / d.max(), (float(n.max()), float(d.max())))

    def terms(self, a: Floats, b: Floats, form: str) -> Floats:
        """What the law is a sum of, at each pair of the powers a and b (pairs,): (pairs, points, terms)."""
        one = np.ones((len(a), len(self.n)))
        by_size, by_data = self.n ** -a[:, None], self.d ** -b[:, None]
        return np.stack({BOTH: [one, by_size, by_data], DATA: [one, by_data], SIZE: [one, by_size]}[form], axis=2)


def fit(points: Sequence[ScalingPoint], form: str) -> ScalingLaw:
    """The law with the smallest sum of squared relative errors."""
    return _fit(_Sizes.of(points), np.array([point.loss for point in points]), form)


def _fit(sizes: _Sizes, losses: Floats, form: str) -> ScalingLaw:
    lows, highs = [POWERS[0]] * 2, [POWERS[1]] * 2
    powers, factors = (0.0, 0.0), np.zeros(3)
    for _ in range(ROUNDS):
        axes = [np.geomspace(low, high, GRID) for low, high in zip(lows, highs, strict=True)]
        axis_a = np.zeros(1) if form == DATA else axes[0]
        axis_b = np.zeros(1) if form == SIZE else axes[1]
        a, b = (grid.ravel() for grid in np.meshgrid(axis_a, axis_b))  # (pairs,)
        found, errors = _least_squares(sizes.terms(a, b, form) / losses[:, None])
        best = int(errors.argmin())
        powers, factors = (float(a[best]), float(b[best])), found[best]
        for place, power in enumerate(powers):  # two points of the grid on either side
            step = (highs[place] / lows[place]) ** (2 / (GRID - 1))
            lows[place], highs[place] = max(POWERS[0], power / step), min(POWERS[1], max(power, POWERS[0]) * step)
    (a_best, b_best), (n_unit, d_unit) = powers, sizes.units
    size, data = {BOTH: (factors[1], factors[-1]), DATA: (0.0, factors[1]), SIZE: (factors[1], 0.0)}[form]
    return ScalingLaw(float(factors[0]), float(size * n_unit**a_best), a_best, float(data * d_unit**b_best), b_best)


def _least_squares(columns: Floats) -> tuple[Floats, Floats]:
    """Factors >= 0 (pairs, terms), at which the terms of (pairs, points, terms) add up to 1 as nearly as they can, and
    the squared errors (pairs,).

    The best ones without regard to sign are tried for every choice of terms: there are three at most.
    """
    pairs, points, terms = columns.shape
    factors, errors = np.zeros((pairs, terms)), np.full(pairs, float(points))
    for size in range(1, terms + 1):
        for chosen in map(list, combinations(range(terms), size)):
            part = columns[:, :, chosen]  # (pairs, points, size)
            gram = part.mT @ part
            gram += RIDGE * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            found = np.linalg.solve(gram, part.sum(axis=1)[:, :, None])  # (pairs, size, 1)
            left = np.square((part @ found)[:, :, 0] - 1).sum(axis=1)
            better = (found >= 0).all(axis=(1, 2)) & (left < errors)
            errors[better] = left[better]
            factors[better] = 0.0
            factors[np.ix_(better, chosen)] = found[better, :, 0]
    return factors, errors


# ---- the uncertainty


def _error(points: Sequence[ScalingPoint], law: ScalingLaw, form: str) -> float:
    """Relative deviation of a loss: what the fit leaves over, and at least the seed's."""
    left = [point.loss / law.loss(point.parameters, point.tokens) - 1 for point in points]
    freedom = max(1, len(points) - FEWEST[form] + 1)
    return max(SEEDS.deviation, math.sqrt(sum(one * one for one in left) / freedom))


def _draws(points: Sequence[ScalingPoint], law: ScalingLaw, form: str, error: float) -> list[ScalingLaw]:
    generator = np.random.default_rng(0)
    sizes = _Sizes.of(points)
    fitted = np.array([law.loss(point.parameters, point.tokens) for point in points])
    return [_fit(sizes, fitted * (1 + error * generator.standard_normal(len(points))), form) for _ in range(DRAWS)]


@dataclass(frozen=True)
class _DrawnRun:
    """A law as it may be, and by how much a single run misses it: `off` is relative."""

    law: ScalingLaw
    off: float

    def loss(self, parameters: float, tokens: float) -> float:
        return self.law.loss(parameters, tokens) * (1 + self.off)


def _as_runs(draws: Sequence[ScalingLaw], error: float) -> list[_DrawnRun]:
    misses = error * np.random.default_rng([0, 1]).standard_normal(len(draws))  # other numbers than _draws() has
    return [_DrawnRun(law, float(off)) for law, off in zip(draws, misses, strict=True)]


def _estimate(value: float, drawn: Sequence[float]) -> Estimate:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def _parts(form: str) -> list[str]:
    size, data = ["size", "size_power"], ["data", "data_power"]
    return ["floor", *{BOTH: size + data, SIZE: size, DATA: data}[form]]


# ---- what ten times the time would give


def _predictions(
    points: Sequence[ScalingPoint], law: ScalingLaw, draws: Sequence[_DrawnRun], form: str
) -> list[Prediction]:
    """From the run with the lowest loss: all time into data, or, where the law knows both, the best split. Each with
    the interval in which one more run would end: the law is not known, and a run misses it.

    A step takes as long as the model has parameters, so time goes as N D.
    """
    best = min(points, key=lambda point: point.loss)
    seconds = TIMES * best.seconds

    def predicted(what: str, n: float, d: float) -> Prediction:
        loss = _estimate(law.loss(n, d), [each.loss(n, d) for each in draws])
        return Prediction(what, round(n), round(d), seconds, loss)

    found = []
    if form != SIZE:
        found.append(predicted(f"{best.run} on {TIMES} times the tokens", best.parameters, TIMES * best.tokens))
    if form != DATA:
        what = f"a model {TIMES} times as large as {best.run} on as many tokens"
        found.append(predicted(what, TIMES * best.parameters, best.tokens))
    if form == BOTH and law.size and law.data:
        n = best_size(law, TIMES * best.parameters * best.tokens)
        found.append(predicted("the best split between size and tokens", n, TIMES * best.parameters * best.tokens / n))
    return found


def best_size(law: ScalingLaw, product: float) -> float:
    """N that makes L(N, D) smallest where N D is given (Hoffmann et al. 2022, equation 4)."""
    a, b = law.size_power, law.data_power
    ratio = (a * law.size) / (b * law.data)
    return float(ratio ** (1 / (a + b)) * product ** (b / (a + b)))


def _unique_tokens(runs: Sequence[TrainedRun]) -> int | None:
    """In the text that was learned from."""
    for run in runs:
        if run.data and "train" in run.data.splits:
            return run.data.splits["train"].tokens
    return None


# ---- in words


def findings(study: ScalingStudy, unique_tokens: int | None = None) -> list[str]:
    """What is to be seen, in sentences."""
    points, form = study.points, study.form
    words = [f"{len(points)} trainings carry a law of {form}: {law_in_words(study)}."]
    words += _powers_in_words(study)
    now = min(points, key=lambda point: point.loss)
    for prediction in study.predictions:
        words.append(
            f"In {TIMES} times the time, {prediction.what} ({count(prediction.parameters)} parameters, "
            f"{count(prediction.tokens)} tokens, about {duration(prediction.seconds)}) would come to a loss of "
            f"{prediction.loss.value:.3f} ({prediction.loss.low:.3f} to {prediction.loss.high:.3f}); "
            f"{now.run} has {now.loss:.3f}."
        )
    most = max((prediction.tokens for prediction in study.predictions), default=0)
    if unique_tokens and most > EPOCHS_AS_NEW * unique_tokens:
        words.append(
            f"The text has {count(unique_tokens)} tokens: read more than {EPOCHS_AS_NEW} times it teaches less than "
            "the law says, which knows no repetition."
        )
    words.append(
        f"A single run is known to {100 * study.error:.1f} % (what the fit leaves over, at least the seed's "
        f"{100 * SEEDS.deviation:.1f} %); beyond the runs that it was fitted to, a law is a guess."
    )
    return words


def law_in_words(study: ScalingStudy) -> str:
    """L = 1.12 + 45 / N^0.34 + 410 / D^0.28"""
    law, parts = study.law, [f"{study.law.floor:.3g}"]
    if study.form != DATA:
        parts.append(f"{law.size:.3g} / N^{law.size_power:.2f}")
    if study.form != SIZE:
        parts.append(f"{law.data:.3g} / D^{law.data_power:.2f}")
    return f"L = {' + '.join(parts)}"


def _powers_in_words(study: ScalingStudy) -> list[str]:
    names = {"floor": "what no model can save (E)", "size_power": "the power of size (a)",
             "data_power": "the power of data (b)"}  # fmt: skip
    known = [f"{name} {part.value:.2f} ({part.low:.2f} to {part.high:.2f})"
             for key, name in names.items() if (part := study.parts.get(key))]  # fmt: skip
    return [f"With 95 % confidence: {', '.join(known)}."]
