"""What is said of a trained model: its figures on whole splits, samples that were judged, the speed it decodes at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from nanogpt import device as devices
from nanogpt.data.preprocessing import read_split
from nanogpt.data.shards import open_split, read_manifest
from nanogpt.evaluation import speed
from nanogpt.evaluation.coherence import KNOWN_WORDS_SHARE, Judge
from nanogpt.evaluation.perplexity import evaluate, nanogpt_measure
from nanogpt.inference.engine import Engine

PROMPT_CHARACTERS = 60


def summarise(model_folder: Path, data_folder: Path, device: str = "cpu") -> dict:
    """Loss, perplexity and bits per byte on the whole of val and test; nanoGPT's own measure for characters.

    Raises UserError, CorruptFileError as open_split and Engine.from_folder do.
    """
    devices.reset_peak_memory(device)
    model = Engine.from_folder(model_folder, device).model
    figures = {}
    for name in ("val", "test"):
        split = open_split(data_folder, name)
        figures[name] = asdict(evaluate(model, split.tokens, model.config.block_size, split.bytes, device))
    tokenizer = read_manifest(data_folder).tokenizer.name
    comparable = tokenizer == "char" and model.config.block_size >= 64
    return {
        **figures, "nanogpt_loss": nanogpt_measure(model, data_folder, device).loss if comparable else None,
        "parameters": model.num_parameters(), "tokenizer": tokenizer, "block_size": model.config.block_size,
        "peak_memory_bytes": devices.peak_memory(device),
    }  # fmt: skip


def sample_and_judge(
    model_folder: Path, text_folder: Path, temperatures: Sequence[float], tokens: int, seed: int, device: str = "cpu"
) -> dict:
    """A sample at each temperature, each judged by the stated measure of coherence (nanogpt.evaluation.coherence).

    The prompt is the beginning of the test text. `coherent` is the verdict on the sample at the middle temperature.
    """
    engine = Engine.from_folder(model_folder, device)
    test = read_split(text_folder, "test")
    judge = Judge(read_split(text_folder, "train"), test)
    prompt = _first_lines(test)
    samples = []
    for temperature in temperatures:
        text = engine.complete(prompt, max_new_tokens=tokens, temperature=temperature, seed=seed)
        samples.append({"temperature": temperature, "prompt": prompt, "text": text,
                        "coherence": asdict(judge.judge(text))})  # fmt: skip
    return {"prompts": [prompt], "samples": samples, "coherence": _verdict(samples, judge)}


def decoding(model_folder: Path, device: str = "cpu") -> dict:
    """Tokens a second with a cache, one sequence at a time, and the peak of this process's memory."""
    devices.reset_peak_memory(device)
    figures = speed.decoding_speed(Engine.from_folder(model_folder, device))
    return {**figures, "peak_memory_bytes": devices.peak_memory(device), "threads": torch.get_num_threads()}


def _first_lines(text: str) -> str:
    """The first lines of `text`, at least PROMPT_CHARACTERS where there are so many; ends with a line's end."""
    end = text.find("\n", PROMPT_CHARACTERS)
    return text[: end + 1] if 0 <= end < 4 * PROMPT_CHARACTERS else text[:PROMPT_CHARACTERS]


def _verdict(samples: list[dict], judge: Judge) -> dict:
    middle = samples[len(samples) // 2]["coherence"]
    return {
        "coherent": middle["coherent"], "score": middle["figures"]["known_words"],
        "limit": KNOWN_WORDS_SHARE * judge.reference.known_words, "reference": judge.reference.known_words,
        "figures": middle["figures"], "reference_figures": asdict(judge.reference), "reasons": middle["reasons"],
        "measure": "share of known words, surprise under a 5-gram, repetition and copying, each against held-out text",
    }  # fmt: skip
