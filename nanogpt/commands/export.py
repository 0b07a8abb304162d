"""Write a model as a folder that transformers, vLLM and others open; adapters are merged into it."""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import path, require_folder

HELP = "write a model in Hugging Face's layout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path, metavar="FOLDER", help="a model's training folder, whose best/ is taken")
    parser.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="the folder to write: a new one, or an earlier export"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, with the model's card, and print what is in it."""
    require_folder("--out", arguments.out)
    from nanogpt.export import folder_card, huggingface
    from nanogpt.weights import folders

    model, tokenizer = folders.open_folder(arguments.folder)
    card = folder_card.text_for(folders.source_at(arguments.folder), arguments.out)
    huggingface.export(model, tokenizer, arguments.out, card, sources=[arguments.folder])
    print(f"{arguments.out}: {model.num_parameters():,} parameters, context {model.config.block_size}")
    return 0
