"""Write the text that follows a prompt."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import add_device, chosen_device, path, positive, print_note

HELP = "write the text that follows a prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER", help="an export or a model's training folder")
    parser.add_argument("--prompt", default="\n", help="the beginning of the text (default: a new line)")
    parser.add_argument("--tokens", type=positive(int), default=300, help="how many to write (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0: always the likeliest token (default: %(default)s)"
    )
    parser.add_argument("--top-k", type=int, help="draw from the K likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest tokens that reach this probability")
    parser.add_argument("--seed", type=int, help="the same seed writes the same text (default: another one each time)")
    parser.add_argument(
        "--allow-unknown", action="store_true", help="even if over 10 %% of the prompt is outside the vocabulary"
    )
    parser.add_argument("--raw", action="store_true", help="let control characters in the text reach the terminal")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the prompt and, piece by piece, what follows it."""
    from nanogpt.inference import prompts
    from nanogpt.inference.engine import Engine
    from nanogpt.printable import show

    engine = Engine.from_folder(arguments.folder, chosen_device(arguments.device))
    prompt = prompts.checked(arguments.prompt, engine.tokenizer, print_note, arguments.allow_unknown)
    pieces = engine.generate(
        prompt,
        max_new_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    show(prompt, arguments.raw)
    for piece in pieces:
        show(piece, arguments.raw)
    show("\n")
    return 0
