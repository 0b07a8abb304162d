"""Loss, perplexity and bits per byte over a whole split."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_device, chosen_device, path, positive
from nanogpt.faults import UserError

HELP = "loss, perplexity and bits per byte over a whole split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER", help="an export or a model's training folder")
    parser.add_argument("--data", type=path, required=True, metavar="DIR", help="tokens, from nanogpt prepare")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="default: %(default)s")
    parser.add_argument("--window", type=positive(int), metavar="N", help="tokens of context (default: block_size)")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    from nanogpt.data import shards
    from nanogpt.evaluation.perplexity import evaluate_split
    from nanogpt.weights.folders import open_folder

    manifest = shards.verify(arguments.data)
    device = chosen_device(arguments.device)
    model, tokenizer = open_folder(arguments.folder)
    if manifest.tokenizer.digest != tokenizer.digest:
        raise UserError(f"{arguments.data}: is tokenised otherwise than what {arguments.folder} was trained on")
    block_size = model.config.block_size
    window = arguments.window or block_size
    if window > block_size:
        raise UserError(f"--window {window}: the model sees at most {block_size} tokens")
    found = evaluate_split(model.to(device).eval(), arguments.data, arguments.split, window, device)
    print(f"{arguments.split}: {found.tokens:,} tokens, windows of {window}")
    print(f"loss           {found.loss:.4f} nats per token")
    print(f"perplexity     {found.perplexity:.3f}")
    print(f"bits per byte  {found.bits_per_byte:.4f}")
    return 0
