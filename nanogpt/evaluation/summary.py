"""What is known of a trained model: its figures on whole splits, samples with a verdict, the speed it decodes at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nanogpt import device as devices
from nanogpt.data.shards import read_manifest
from nanogpt.data.texts import read_split
from nanogpt.evaluation import speed
from nanogpt.evaluation.coherence import KNOWN_WORDS_SHARE, Judge
from nanogpt.evaluation.perplexity import evaluate_split, mean_loss, nanogpt_measure
from nanogpt.inference.engine import Engine
from nanogpt.results.evaluation import (
    NANOGPT_WINDOW,
    Coherence,
    DecodingSpeed,
    JudgedSample,
    JudgedSamples,
    ModelFigures,
)
from nanogpt.weights.folders import open_folder

PROMPT_CHARACTERS = 60  # at least
LONGEST_PROMPT = 4 * PROMPT_CHARACTERS
MEASURE = "share of known words, surprise under a 5-gram, repetition and copying, each against held-out text"


def summarise(
    model_folder: Path, data_folder: Path, device: str = "cpu", with_nanogpts_measure: bool = True
) -> ModelFigures:
    """Loss, perplexity and bits per byte on the whole of val and test; nanoGPT's own measure for characters.

    Raises UserError, CorruptFileError as open_split and open_folder do.
    """
    devices.reset_peak_memory(device)
    model = open_folder(model_folder)[0].to(device).eval()
    block_size = model.config.block_size
    tokenizer = read_manifest(data_folder).tokenizer.name
    val, test = (evaluate_split(model, data_folder, split, block_size, device) for split in ("val", "test"))
    nanogpt_loss = None
    if with_nanogpts_measure and tokenizer == "char" and block_size >= NANOGPT_WINDOW:
        same_windows = block_size == NANOGPT_WINDOW
        nanogpt_loss = mean_loss([val, test]) if same_windows else nanogpt_measure(model, data_folder, device)
    return ModelFigures(
        val=val,
        test=test,
        nanogpt_loss=nanogpt_loss,
        parameters=model.num_parameters(),
        tokenizer=tokenizer,
        block_size=block_size,
        peak_memory_bytes=devices.peak_memory(device),
    )


def sample_and_judge(
    model_folder: Path, text_folder: Path, temperatures: Sequence[float], tokens: int, seed: int, device: str = "cpu"
) -> JudgedSamples:
    """A sample at each temperature, each judged by the stated measure of coherence (nanogpt.evaluation.coherence).

    The prompt is the first whole lines of the test text. `coherence` is the verdict on the sample at the middle
    temperature.
    """
    engine = Engine.from_folder(model_folder, device)
    test = read_split(text_folder, "test")
    judge = Judge(read_split(text_folder, "train"), test)
    prompt = _first_lines(test)
    samples = []
    for temperature in temperatures:
        text = engine.complete(prompt, max_new_tokens=tokens, temperature=temperature, seed=seed)
        samples.append(JudgedSample(temperature, prompt, text, judge.judge(text)))
    return JudgedSamples([prompt], samples, _of_all(samples))


def decoding(model_folder: Path, device: str = "cpu", max_seconds: float = 3.0) -> DecodingSpeed:
    """Tokens a second with a cache, one sequence at a time, and the peak of this process's memory meanwhile."""
    model, _ = open_folder(model_folder)
    return speed.decoding_speed(model, device, max_seconds=max_seconds)


def _first_lines(text: str) -> str:
    """The first whole lines of `text`, at least PROMPT_CHARACTERS where there are so many; ends with a line's end.

    A split begins wherever the one before it ends, often in the middle of a word.
    """
    start = text.find("\n", 0, LONGEST_PROMPT) + 1 or text.find(" ", 0, LONGEST_PROMPT) + 1
    text = text[start:] or text
    end = text.find("\n", PROMPT_CHARACTERS, LONGEST_PROMPT)
    return text[: end + 1] if end >= 0 else text[:PROMPT_CHARACTERS]


def _of_all(samples: list[JudgedSample]) -> Coherence:
    middle = samples[len(samples) // 2].coherence
    return Coherence(
        coherent=middle.coherent,
        score=middle.figures.known_words,
        limit=KNOWN_WORDS_SHARE * middle.reference.known_words,
        reference=middle.reference.known_words,
        figures=middle.figures,
        reference_figures=middle.reference,
        reasons=middle.reasons,
        measure=MEASURE,
    )
