"""The curves that a person can zoom into on the report's page: the numbers of the figures next to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.ledger.facts import MEASURED, Measured
from flows.report.facts import ModelFacts, RunFacts
from nanogpt.training.record.metrics import Row, evaluations_with_tokens, read_metrics
from nanogpt.units import GIB

MOST_POINTS = 400  # of a line: more than a screen can show makes the page big and nothing clearer
DIGITS = 5


@dataclass(frozen=True)
class Axis:
    label: str
    key: str


@dataclass(frozen=True)
class Series:
    """`columns`: numbers by the key of an axis, all of one length; None where there is none."""

    name: str
    columns: dict[str, list[float | None]]


@dataclass(frozen=True)
class Chart:
    """What may be shown over what; the first of each is shown at first."""

    title: str
    xs: list[Axis]
    ys: list[Axis]
    series: list[Series]


STEP, TOKENS, SECONDS = Axis("step", "step"), Axis("tokens", "tokens"), Axis("training time (seconds)", "seconds")
COMPUTATION = Axis("computation (FLOP)", "flop")


def charts(facts: RunFacts) -> dict[str, Chart]:
    """The charts by the name of the figure that each stands next to; a model without metrics has none."""
    found: dict[str, Chart] = {}
    judged: list[Series] = []
    costs = flops_per_token(facts.of(MEASURED))
    for model in facts.models:
        train, evaluations = _rows(model, costs.get(model.name))
        if train:
            found |= _of_model(model.name, train, evaluations)
        if evaluations:
            columns = ("step", "tokens", "seconds", "flop", "bits_per_byte", "val_loss")
            judged.append(_series(model.name, evaluations, columns))
    if len(judged) > 1:
        bits, loss = Axis("bits per byte, validation", "bits_per_byte"), Axis("loss (nats per token)", "val_loss")
        found["comparison"] = Chart("All models", [TOKENS, SECONDS, COMPUTATION, STEP], [bits, loss], judged)
    return found


def flops_per_token(measured: Measured | None) -> dict[str, float]:
    """Floating-point operations of a training step for each of its tokens, by model, as they were counted."""
    if measured is None:
        return {}
    return {name: speed.flops_per_second / speed.tokens_per_second for name, speed in measured.models.items()}


def _of_model(name: str, train: Sequence[Row], evaluations: Sequence[Row]) -> dict[str, Chart]:
    xs = [STEP, TOKENS, SECONDS]
    places = ("step", "tokens", "seconds")
    loss = Chart(
        f"Loss of {name}",
        xs,
        [Axis("loss (nats per token)", "loss")],
        [
            _series("training", train, (*places, "loss")),
            _series("validation", _renamed(evaluations, "val_loss"), (*places, "loss")),
            _series("averaged weights", _renamed(evaluations, "average_val_loss"), (*places, "loss")),
        ],
    )
    rates = [Axis("learning rate", "learning_rate"), Axis("gradient norm", "grad_norm")]
    speeds = [Axis("tokens per second", "tokens_per_second"), Axis("memory (GiB)", "memory")]
    with_memory = [{**row, "memory": (row.get("memory_bytes") or math.nan) / GIB} for row in train]
    found = {
        f"{name}-loss": loss,
        f"{name}-learning-rate": Chart(
            f"Learning rate and gradient norm of {name}",
            xs,
            rates,
            [_series(name, train, (*places, *(rate.key for rate in rates)))],
        ),
        f"{name}-speed": Chart(
            f"Speed and memory of {name}",
            [SECONDS, STEP, TOKENS],
            speeds,
            [_series(name, with_memory, (*places, *(speed.key for speed in speeds)))],
        ),
    }
    return {name: _without_empty(chart) for name, chart in found.items()}


def _rows(model: ModelFacts, flops: float | None) -> tuple[list[Row], list[Row]]:
    train, evaluations = read_metrics(Path(model.folder))
    judged = evaluations_with_tokens(train, evaluations)
    if flops is not None:
        judged = [{**row, "flop": flops * row["tokens"]} if row.get("tokens") else row for row in judged]
    return train, judged


def _renamed(rows: Iterable[Row], key: str) -> list[Row]:
    return [{**row, "loss": row.get(key)} for row in rows]


def _without_empty(chart: Chart) -> Chart:
    keys = [axis.key for axis in chart.ys]
    kept = [row for row in chart.series if any(value is not None for key in keys for value in row.columns[key])]
    return Chart(chart.title, chart.xs, chart.ys, kept)


def _series(name: str, rows: Sequence[Row], keys: Sequence[str]) -> Series:
    stride = max(1, math.ceil(len(rows) / MOST_POINTS))
    kept = [row for place, row in enumerate(rows) if place % stride == 0 or place == len(rows) - 1]
    return Series(name, {key: [_number(row, key) for row in kept] for key in keys})


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    is_finite = isinstance(value, int | float) and math.isfinite(value)
    return float(f"{value:.{DIGITS}g}") if is_finite and key != "step" else value if is_finite else None
