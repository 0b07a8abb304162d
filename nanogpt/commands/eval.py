"""Judge models by a text that they have not seen: loss, perplexity and bits per byte with intervals, calibration, what
context is worth. Several models are compared on the same bytes, whatever their tokenizers."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import (
    add_device,
    named,
    path,
    positive,
    require_file,
    require_folder,
)
from nanogpt.faults import UserError

HELP = "evaluate one or several models: bits per byte, calibration, samples; with intervals"
MODEL = "an export, a model's training folder or a checkpoint in it, a Hugging Face folder, nanoGPT's ckpt.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=named, nargs="+", metavar="FOLDER", help=MODEL)
    parser.add_argument("--data", type=path, metavar="DIR", help="tokens, from nanogpt prepare")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--window", type=positive(int), metavar="N", help="tokens of context (default: block_size)")
    stride = (
        "tokens between the beginnings of windows: fewer than the window give each token more context, and take longer"
    )
    parser.add_argument("--stride", type=positive(int), metavar="N", help=f"{stride} (default: the window)")
    parser.add_argument(
        "--baselines", action="store_true", help="compare with a unigram and a 5-gram of bytes of the same text"
    )
    samples = "also evaluate N samples of each model: diversity, novelty, coherence"
    parser.add_argument("--samples", type=positive(int), metavar="N", help=samples)
    parser.add_argument("--json", type=path, metavar="FILE", help="write every figure as JSON")
    parser.add_argument("--figures", type=path, metavar="DIR", help="draw the figures (SVG)")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument(
        "--save-samples", type=path, metavar="FILE", help="save greedy samples, to compare later ones with"
    )
    kept.add_argument(
        "--compare-samples",
        type=path,
        metavar="FILE",
        help="only compare with saved samples: exit code 1 if one differs",
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures, or what has changed since samples were kept."""
    require_file("--json", arguments.json)
    require_file("--save-samples", arguments.save_samples)
    if arguments.figures is not None:
        require_folder("--figures", arguments.figures)
    only_one = "--compare-samples" if arguments.compare_samples else "--save-samples" if arguments.save_samples else ""
    if only_one and len(arguments.folders) > 1:
        raise UserError(f"{only_one}: takes one model, found {len(arguments.folders)}")
    if arguments.compare_samples:
        from nanogpt.commands.eval_samples import compare_samples  # torch

        return compare_samples(arguments)
    if arguments.data is None:
        raise UserError("which text? --data DIR, tokens of nanogpt prepare")
    from nanogpt.commands.eval_figures import judge  # torch

    judge(arguments)
    return 0
