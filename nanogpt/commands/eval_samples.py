"""`nanogpt eval --save-samples` and `--compare-samples`: whether a model still writes what it wrote."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import chosen_device, print_note
from nanogpt.data.shards import open_split
from nanogpt.evaluation import greedy_samples
from nanogpt.evaluation.writing import PROMPT_CHARACTERS, prompt_starts
from nanogpt.inference.engine import Engine
from nanogpt.study.subject import open_subject
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.weights.sources import digest_of

SAME, DIFFERENT = 0, 1  # exit codes


def save_samples(arguments: argparse.Namespace, device: str) -> None:
    """Keep what the model writes greedily after prompts from the split."""
    text = load_tokenizer(arguments.data).decode(open_split(arguments.data, arguments.split).tokens.tolist())
    starts = prompt_starts(text, greedy_samples.PROMPTS)
    prompts = [text[start : start + PROMPT_CHARACTERS] for start in starts]
    (place,) = arguments.folders
    subject = open_subject(place, arguments.data)
    engine = Engine.of_model(subject.model, subject.tokenizer, device)
    samples = greedy_samples.write(place, digest_of(place), engine, prompts)
    greedy_samples.save(samples, arguments.save_samples)
    print_note(f"{len(prompts)} greedy samples are in {arguments.save_samples}")


def compare_samples(arguments: argparse.Namespace) -> int:
    """The exit code: 0 where every sample is as it was kept."""
    kept = greedy_samples.load(arguments.compare_samples)
    (place,) = arguments.folders
    subject = open_subject(place, arguments.data)
    engine = Engine.of_model(subject.model, subject.tokenizer, chosen_device(arguments.device))
    found = greedy_samples.differences(engine, kept)
    weights = "the same weights" if digest_of(place) == kept.weights_digest else "other weights"
    if not found:
        print(f"{place}: all {len(kept.samples)} greedy samples are as they were ({weights})")
        return SAME
    print(f"{place}: {len(found)} of {len(kept.samples)} greedy samples differ ({weights})")
    for difference in found:
        print(f"  {difference}")
    return DIFFERENT
