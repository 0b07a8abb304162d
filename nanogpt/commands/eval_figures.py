"""The figures of `nanogpt eval`: computed, printed, drawn and written as JSON."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanogpt import durable
from nanogpt.commands.arguments import chosen_device
from nanogpt.commands.eval_samples import save_samples
from nanogpt.data.shards import open_split, verify
from nanogpt.data.texts import bytes_of
from nanogpt.evaluation import findings, quality
from nanogpt.evaluation.block_bootstrap import BlockMean
from nanogpt.evaluation.coherence import Judge
from nanogpt.evaluation.quality import JudgedModel
from nanogpt.evaluation.writing import judge_writing
from nanogpt.faults import UserError
from nanogpt.inference.engine import Engine
from nanogpt.records import to_json
from nanogpt.results.quality import Estimate, ModelScores, QualityReport, ScoreComparison, WritingQuality
from nanogpt.study.subject import open_subject
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.units import percent

MOST_TRAIN_TOKENS = 1 << 24


def judge(arguments: argparse.Namespace) -> None:
    """Print the figures of every model. Raises UserError before anything is printed, NonFiniteError."""
    verify(arguments.data)
    device = chosen_device(arguments.device)
    baselines = _baselines(arguments) if arguments.baselines else {}
    comparison = quality.judge(_models(arguments), arguments.split, device, baselines=baselines)
    writing = _writing(arguments, device) if arguments.samples else []
    if arguments.save_samples:
        save_samples(arguments, device)
    sentences = findings.of_comparison(comparison) + [line for found in writing for line in findings.of_writing(found)]
    _show(comparison, sentences)
    if arguments.json:
        durable.write_json(arguments.json, to_json(QualityReport(comparison, writing, sentences)))
        print(f"\nEvery figure is in {arguments.json}.")
    if arguments.figures:
        files = _draw(comparison, writing, arguments.figures)
        print(f"\nThe figures are {', '.join(map(str, files))}.")


def short_names(places: Sequence[str]) -> list[str]:
    """Of each place its last parts, as few as tell it from the others; the same place again gets a number."""
    parts = [Path(os.path.abspath(place)).parts for place in places]
    different = len(set(parts))
    for length in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*part[-length:])) for part in parts]
        if len(set(names)) == different:
            break
    return [name if name not in names[:place] else f"{name} ({names[:place].count(name) + 1})"
            for place, name in enumerate(names)]  # fmt: skip


def _models(arguments: argparse.Namespace) -> Iterator[JudgedModel]:
    """One after the other, so that only one is in memory."""
    for name, place in zip(short_names(arguments.folders), arguments.folders, strict=True):
        subject = open_subject(place, arguments.data)
        block_size = subject.model.config.block_size
        window = arguments.window or block_size
        if window > block_size:
            raise UserError(f"--window {window}: the model sees at most {block_size} tokens ({place})")
        stride = arguments.stride or window
        if stride > window:
            raise UserError(f"--stride {stride}: is longer than the window of {window}, so tokens would be left out")
        yield JudgedModel(name, subject.model, subject.tokenizer, arguments.data, window, stride)


def _baselines(arguments: argparse.Namespace) -> dict[str, BlockMean]:
    train, held_out = _texts(arguments)
    if len(held_out) != (there := open_split(arguments.data, arguments.split).bytes):
        raise UserError(
            f"--baselines: the tokens of {arguments.data} give {len(held_out):,} bytes, its text had {there:,}: it has "
            "characters outside its vocabulary, and no bytes to count in their place"
        )
    return quality.simple_models(train, held_out)


def _texts(arguments: argparse.Namespace) -> tuple[bytes, bytes]:
    """Of the training split, as far as simple models and comparisons read it, and of the one to judge by."""
    tokenizer = load_tokenizer(arguments.data)
    train, held_out = (open_split(arguments.data, split).tokens for split in ("train", arguments.split))
    return bytes_of(train[:MOST_TRAIN_TOKENS], tokenizer), bytes_of(held_out, tokenizer)


def _writing(arguments: argparse.Namespace, device: str) -> list[WritingQuality]:
    train, held_out = (text.decode("utf-8", errors="replace") for text in _texts(arguments))
    found, reader = [], Judge(train, held_out)
    for name, place in zip(short_names(arguments.folders), arguments.folders, strict=True):
        subject = open_subject(place, arguments.data)
        engine = Engine.of_model(subject.model, subject.tokenizer, device)
        found.append(judge_writing(name, engine, reader, held_out, arguments.samples))
    return found


def _show(comparison: ScoreComparison, sentences: Sequence[str]) -> None:
    for model in comparison.models:
        stride = f", one every {model.stride}" if model.stride < model.window else ""
        name = f"{model.model}: " if len(comparison.models) > 1 else ""
        print(f"{name}{comparison.split}: {model.tokens:,} tokens, windows of {model.window}{stride}")
        for title, figure in _figures(model):
            print(f"{title:<15}{figure}")
        print()
    for simple in comparison.baselines:
        print(f"{simple.name:<15}{_interval(simple.bits_per_byte, 4)} bits per byte")
    if comparison.baselines:
        print()
    print("\n".join(sentences))


def _figures(model: ModelScores) -> list[tuple[str, str]]:
    accuracy = model.accuracy
    right, low, high = (percent(share, 1) for share in (accuracy.value, accuracy.low, accuracy.high))
    return [
        ("loss", f"{_interval(model.loss, 4)} nats per token"),
        ("perplexity", _interval(model.perplexity, 3)),
        ("bits per byte", _interval(model.bits_per_byte, 4)),
        ("first choice", f"right {right} ({low} to {high})"),
        ("calibration", f"off by {100 * model.calibration_error:.1f} points in the mean"),
    ]


def _interval(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _draw(comparison: ScoreComparison, writing: Sequence[WritingQuality], folder: Path) -> list[Path]:
    from nanogpt.plots.evaluation import calibration_plot, novelty_plot, position_plot, size_plot  # matplotlib

    files = [
        calibration_plot(comparison.models, folder / "calibration.svg"),
        position_plot(comparison.models, folder / "position.svg"),
        *([size_plot(comparison, folder / "size.svg")] if len(comparison.models) > 1 else []),
    ]
    names = [found.model.replace("/", "-") for found in writing]
    return files + [
        novelty_plot(found, folder / f"{name}-novelty.svg") for name, found in zip(names, writing, strict=True)
    ]
