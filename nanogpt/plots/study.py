"""What studies saw: attention by head, layer and time; predictions by layer; a map of the embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanogpt.plots.style import (
    BLUE,
    GREEN,
    INK,
    LINES,
    ORANGE,
    PURPLE,
    SKY,
    SOFT,
    VERMILION,
    say_empty,
    set_title,
    write_figure,
)
from nanogpt.printable import visible
from nanogpt.results.study import AttentionStudy, EmbeddingStudy, LensStudy
from nanogpt.training.record.metrics import read_metrics
from nanogpt.units import percent

Floats = npt.NDArray[np.float64]

SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#d6e6f4", "#79b4d9", BLUE, "#08306b"])
DARK = 0.55  # of the scale of SHADES, from which on letters are white
MOST_WRITTEN = 8  # cells in a row that have room for their figure
MOST_LABELLED = 40  # tokens along an axis
HEAD_MARKERS = "osv^D<>P"
KINDS = {  # of tokens: a colour and a marker
    "lower case": (BLUE, "o"),
    "upper case": (VERMILION, "s"),
    "digit": (GREEN, "D"),
    "sign": (PURPLE, "^"),
    "space": (ORANGE, "P"),
}
MOST_NAMED_POINTS = 120
# Of a point, for its name; in points, of which 72 are an inch.
CORNERS = ((4.0, 2.5), (-4.0, 2.5), (4.0, -2.5), (-4.0, -2.5))
ENOUGH_ROOM = 10.0  # the first corner with so much is taken
MOST_LAYERS = 13  # that a table of guesses shows
LETTERS_IN_A_CELL = 6


def heads_plot(study: AttentionStudy, path: Path) -> Path:
    """A cell for each head: its weight on the token before, on the first, and, where a token comes again, on what
    followed it earlier (induction); and how evenly it looks."""
    even, chance = study.even_entropy, f"even: {percent(study.chance, 0)}"
    panels = [
        ("token before", chance, [head.previous_token for head in study.heads]),
        ("first token", chance, [head.first_token for head in study.heads]),
    ]
    if study.repetition:
        copied = [head.induction or 0.0 for head in study.heads]
        panels.append(("induction", f"even: {percent(study.repetition.chance, 0)}", copied))
    panels.append(("entropy", f"even: {even:.2f} nats", [head.entropy / even for head in study.heads]))
    rows = study.layers

    def draw(figure: Figure) -> None:
        all_axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        title = "Every head: its weight on a place (%), its entropy (% of even attention)"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, weight="bold")
        for place, (axes, (what, note, values)) in enumerate(zip(all_axes, panels, strict=True)):
            _cells(axes, np.array(values).reshape(rows, -1))
            set_title(axes, "", "head", "" if place else "layer")
            axes.set_title(f"{what}\n{note}", fontsize=9.5, weight="normal", pad=4)

    return write_figure(draw, path, height=1.5 + 0.34 * min(rows, 16))


def _cells(axes: Axes, values: Floats) -> None:
    """values (layers, heads) of 0 to 1 as shades, with the figure where there is room."""
    rows, columns = values.shape
    axes.imshow(values, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    every = math.ceil(columns / MOST_WRITTEN)
    axes.set_xticks(range(0, columns, every), [str(head + 1) for head in range(0, columns, every)])
    axes.set_yticks(range(rows), [str(layer + 1) for layer in range(rows)])
    axes.tick_params(length=0)
    if columns > MOST_WRITTEN:
        return
    for row in range(rows):
        for place in range(columns):
            value = values[row, place]
            ink = "white" if value > DARK else INK
            axes.annotate(f"{100 * value:.0f}", (place, row), ha="center", va="center", fontsize=8.5, color=ink)


def maps_plot(weights: Floats, path: Path) -> Path:
    """weights (n_layer, n_head, T, T): a small map for each head, the query down, the key across."""
    layers, heads, T, _ = weights.shape

    def draw(figure: Figure) -> None:
        grid = figure.subplots(layers, heads, squeeze=False)
        figure.suptitle("Attention of every head", x=0.01, ha="left", fontsize=11.5, weight="bold")
        figure.supxlabel(f"token looked at, 1 to {T}; a column for each head", fontsize=9.5)
        figure.supylabel(f"token that looks, 1 to {T}; a row for each layer", fontsize=9.5)
        for layer in range(layers):
            for head in range(heads):
                axes = grid[layer][head]
                _map(axes, weights[layer, head])
                axes.set_xticks([])
                axes.set_yticks([])
                if layer == 0:
                    axes.set_title(str(head + 1), fontsize=9, loc="center", weight="normal", pad=3)
                if head == 0:
                    axes.set_ylabel(str(layer + 1), fontsize=9, rotation=0, labelpad=7, va="center")

    side = 6.9 / heads
    return write_figure(draw, path, height=0.85 + layers * min(side, 1.6))


def head_plot(tokens: Sequence[str], weights: Floats, name: str, path: Path) -> Path:
    """weights (T, T) of one head over the first tokens, each written along both axes."""
    T = min(len(tokens), MOST_LABELLED)
    labels = [_shown(token) for token in tokens[:T]]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, f"Attention of {name}", "token looked at", "token that looks")
        picture = _map(axes, weights[:T, :T])
        size = max(6.0, min(9.5, 300 / T))
        upright = max(map(len, labels)) <= 2
        axes.set_xticks(range(T), labels, rotation=0 if upright else 90, fontsize=size, color=INK, parse_math=False)
        axes.set_yticks(range(T), labels, fontsize=size, color=INK, parse_math=False)
        axes.tick_params(length=0)
        _bar(figure, axes, picture, "attention weight")

    return write_figure(draw, path, height=6.4)


def _map(axes: Axes, weights: Floats) -> Any:
    axes.grid(visible=False)
    return axes.imshow(weights, cmap=SHADES, norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")


def entropy_plot(study: AttentionStudy, path: Path) -> Path:
    """Attention entropy by layer: a mark for each head, their mean as a line, even attention as a level."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, f"Attention entropy over {len(study.tokens)} tokens", "layer", "entropy (nats)")
        layers = range(1, study.layers + 1)
        heads = len(study.entropies(1))
        for head in range(heads):
            values = [study.entropies(layer)[head] for layer in layers]
            axes.plot(
                layers,
                values,
                linestyle="none",
                color=SKY,
                markeredgecolor=BLUE,
                marker=HEAD_MARKERS[head % len(HEAD_MARKERS)],
                markersize=6,
                label=f"head {head + 1}" if heads <= MOST_WRITTEN else ("each head" if head == 0 else None),
            )
        axes.plot(layers, [mean(study.entropies(layer)) for layer in layers], color=VERMILION, label="mean")
        axes.axhline(study.even_entropy, color=SOFT, linestyle=(0, (2, 2)), linewidth=1.2, label="even attention")
        axes.set_xticks(layers)
        axes.set_ylim(0, 1.08 * study.even_entropy)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return write_figure(draw, path, height=3.5)


def checkpoint_entropy_plot(study: AttentionStudy, path: Path) -> Path:
    """Attention entropy of each layer over the checkpoints of the training, the heads' range shaded."""
    curves = {
        f"layer {layer + 1}": [(at.step, mean(at.entropy[layer])) for at in study.checkpoints]
        for layer in range(study.layers)
    }
    return _over_training(curves, study.even_entropy, "Attention entropy over checkpoints", path)


def attention_entropy_plot(model_folder: Path, path: Path) -> Path:
    """Attention entropy by layer over the training, as it was noted at each evaluation (metrics.jsonl)."""
    _, evaluations = read_metrics(model_folder)
    rows = [(row["step"], row["attention_entropy"]) for row in evaluations if row.get("attention_entropy")]
    layers = max((len(nats) for _, nats in rows), default=0)
    curves = {
        f"layer {layer + 1}": [
            (step, nats[layer]) for step, nats in rows if len(nats) == layers and nats[layer] is not None
        ]
        for layer in range(layers)
    }
    return _over_training(curves, None, f"Attention entropy of {model_folder.name}", path)


def _over_training(curves: dict[str, list[tuple[int, float]]], even: float | None, title: str, path: Path) -> Path:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(axes, title, "step", "entropy (nats)")
        if not any(curves.values()):
            return say_empty(axes, "no evaluation noted it")
        for (name, points), (color, dash) in zip(curves.items(), cycle(LINES), strict=False):
            steps, values = [step for step, _ in points], [value for _, value in points]
            axes.plot(steps, values, color=color, linestyle=dash, marker="o", markersize=3.5, label=name)
        if even is not None:
            axes.axhline(even, color=SOFT, linestyle=(0, (2, 2)), linewidth=1.2, label="even attention")
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return write_figure(draw, path, height=3.5)


def lens_plot(study: LensStudy, path: Path) -> Path:
    """What would come next, read after each layer: the likeliest token, shaded by its probability."""
    every = math.ceil(len(study.layers) / MOST_LAYERS)
    kept = sorted({*range(0, len(study.layers), every), len(study.layers) - 1}, reverse=True)  # the last layer above
    rows = [study.guesses[layer] for layer in kept]
    labels = ["embeddings" if layer == 0 else f"layer {layer}" for layer in kept]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        set_title(
            axes, "The likeliest next token, read after each layer", "the text; each cell guesses what follows", ""
        )
        values = np.array([[guess.probability for guess in row] for row in rows])
        picture = axes.imshow(values, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        tokens = [_short(token) for token in study.tokens[: values.shape[1]]]
        turned = 0 if max(map(len, tokens)) <= 3 else 60
        axes.set_xticks(range(len(tokens)), tokens, color=INK, rotation=turned, parse_math=False)
        axes.set_yticks(range(len(labels)), labels, color=INK)
        for place, row in enumerate(rows):
            for column_, guess in enumerate(row):
                ink = "white" if guess.probability > DARK else INK
                axes.annotate(_short(guess.token), (column_, place), ha="center", va="center", fontsize=8.5, color=ink,
                              parse_math=False)  # fmt: skip
        _bar(figure, axes, picture, "its probability")

    return write_figure(draw, path, height=1.3 + 0.34 * len(rows))


def lens_layers_plot(study: LensStudy, path: Path) -> Path:
    """Loss after each layer, and how often its likeliest token is already the final one."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        layers = [layer.layer for layer in study.layers]
        set_title(left, "Loss after each layer", "layer (0: embeddings)", "cross-entropy (nats per token)")
        left.plot(layers, [layer.loss for layer in study.layers], color=BLUE, marker="o", markersize=4)
        left.set_ylim(bottom=0)
        set_title(right, "Agrees with the last layer", "layer (0: embeddings)", "share of tokens (%)")
        agreement = [100 * layer.agreement for layer in study.layers]
        right.plot(layers, agreement, color=VERMILION, linestyle="--", marker="s", markersize=4)
        right.set_ylim(0, 104)
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))

    return write_figure(draw, path, height=3.2)


def embeddings_plot(study: EmbeddingStudy, path: Path) -> Path:
    """A map of the most frequent tokens: those that the model treats alike lie near each other."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        across, up = (f"{axis} principal component ({percent(share, 0)} of the variance)"
                      for axis, share in zip(("first", "second"), study.explained, strict=True))  # fmt: skip
        title = "Tokens by their embedding" if study.table == "embedding" else "Tokens by their row of the head"
        set_title(axes, title, across, up)
        for kind, (color, marker) in KINDS.items():
            points = [(token.x, token.y) for token in study.tokens if token.kind == kind]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=color, marker=marker, markersize=4.5, linestyle="none", label=kind
                )
        axes.margins(0.06)
        axes.get_xlim(), axes.get_ylim()  # settles them
        pixels = axes.transData.transform([(token.x, token.y) for token in study.tokens])
        places = (pixels * (72 / figure.dpi)).tolist()
        named = study.tokens[:MOST_NAMED_POINTS]
        for token, corner in zip(named, corners_with_room(places, len(named)), strict=True):
            sides = "left" if corner[0] > 0 else "right", "bottom" if corner[1] > 0 else "top"
            axes.annotate(_short(token.token), (token.x, token.y), xytext=corner, textcoords="offset points",
                          ha=sides[0], va=sides[1], fontsize=9, color=INK, parse_math=False)  # fmt: skip
        axes.legend(loc="best")

    return write_figure(draw, path, height=5.4)


def corners_with_room(places: Sequence[Sequence[float]], count: int) -> list[tuple[float, float]]:
    """Where the name of each of the first `count` places stands, from its place: of four corners the one with the most
    room to other places and to the names before it. In points."""
    taken, chosen = [(float(x), float(y)) for x, y in places], list[tuple[float, float]]()
    for index in range(count):
        x, y = taken[index]
        others = taken[:index] + taken[index + 1 :]
        middles = {(across, up): (x + 2 * across, y + 3 * up) for across, up in CORNERS}  # of the name's letters
        room = {at: min((math.dist(middle, other) for other in others), default=0.0) for at, middle in middles.items()}
        best = max(CORNERS, key=lambda corner: min(room[corner], ENOUGH_ROOM))
        chosen.append(best)
        taken.append(middles[best])
    return chosen


def _bar(figure: Figure, axes: Axes, picture: Any, label: str) -> None:
    bar = figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _short(token: str) -> str:
    shown = _shown(token)
    return shown if len(shown) <= LETTERS_IN_A_CELL else f"{shown[: LETTERS_IN_A_CELL - 1]}…"


def _shown(token: str) -> str:
    """A token as a label."""
    return visible(token) or "∅"
