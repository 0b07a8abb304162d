"""Trained models compared, and the samples of the best one judged: what the evaluation phase adds to single figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from nanogpt.data.texts import read_split
from nanogpt.evaluation import findings, quality
from nanogpt.evaluation.coherence import Judge
from nanogpt.evaluation.quality import JudgedModel
from nanogpt.evaluation.writing import judge_writing, most_samples
from nanogpt.inference.engine import Engine
from nanogpt.plots.evaluation import calibration_plot, novelty_plot, position_plot, size_plot
from nanogpt.results.quality import QualityReport
from nanogpt.weights.folders import open_folder

SAMPLES, FEWEST_SAMPLES = 8, 2  # fewer where the held-out text is short; one has no other to differ from
MOST_PRODUCTS = 3.2e11  # parameters x bytes of text: 13 s of one core for micro and tiny_model on 55,770 bytes
LEAST_BYTES, MOST_BYTES = 1 << 13, 1 << 18


def judge_trained(
    models: Mapping[str, Path],
    data_folders: Mapping[str, Path],
    text_folder: Path,
    best: str,
    figures: Path,
    device: str,
) -> QualityReport:
    """The models in these folders on the test split, each with the tokens of its data folder, and samples of `best`.

    Of a long text or with large models, the beginning; no samples where the test split is too short for two. Figures
    go to `figures`, named `{best}-....svg`.
    """
    train, test = (read_split(text_folder, split) for split in ("train", "test"))
    parameters = sum(open_folder(folder)[0].num_parameters() for folder in models.values())
    most_bytes = round(min(max(LEAST_BYTES, MOST_PRODUCTS / parameters), MOST_BYTES))
    judge = Judge(train, test)
    baselines = quality.simple_models(train.encode(), test.encode()[:most_bytes], judge.language)
    opened = _opened(models, data_folders)
    comparison = quality.judge(opened, "test", device, most_bytes, baselines)
    samples = min(SAMPLES, most_samples(test))
    engine = Engine.from_folder(models[best], device)
    writing = [judge_writing(best, engine, judge, test, samples)] if samples >= FEWEST_SAMPLES else []
    drawn = [
        calibration_plot(comparison.models, figures / f"{best}-calibration.svg"),
        position_plot(comparison.models, figures / f"{best}-position.svg"),
        *([size_plot(comparison, figures / f"{best}-size.svg")] if len(comparison.models) > 1 else []),
        *(novelty_plot(of_best, figures / f"{best}-novelty.svg") for of_best in writing),
    ]
    sentences = findings.of_comparison(comparison)
    for of_best in writing:
        sentences += findings.of_writing(of_best)
    return QualityReport(comparison, writing, sentences, [path.stem for path in drawn])


def _opened(models: Mapping[str, Path], data_folders: Mapping[str, Path]) -> Iterator[JudgedModel]:
    """One after the other, so that only one is in memory."""
    for name, folder in models.items():
        model, tokenizer = open_folder(folder)
        window = model.config.block_size
        yield JudgedModel(name, model, tokenizer, data_folders[name], window, window)
