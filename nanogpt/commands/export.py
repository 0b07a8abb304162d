"""Write a model in the forms that other programs open; adapters are merged into it.

hf is for transformers, vLLM and others, gguf for llama.cpp and Ollama, onnx for onnxruntime, mlx for mlx-lm on Apple's
chips. docs/formats.md says what each holds.
"""

from __future__ import annotations

import argparse

from nanogpt.commands.arguments import named, path, print_note, require_folder

HELP = "write a model in the formats that other programs open"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=path, metavar="FOLDER", help="an export, or a model's training folder, whose best/ is taken"
    )
    parser.add_argument(
        "--out", type=path, required=True, metavar="DIR", help="the folder to write: a new one, or an earlier export"
    )
    parser.add_argument(
        "--to",
        type=named,
        default="hf",
        metavar="FORMATS",
        help="hf, gguf, onnx, mlx, several as in hf,gguf, or all that can hold the model (default: hf). Several are "
        "written to DIR/hf, DIR/gguf ...",
    )
    parser.add_argument(
        "--precision",
        type=named,
        metavar="NAMES",
        help="how weights are stored (default: f32). hf and mlx: f32, f16, bf16; gguf: f32, f16, q8_0, q4_0; "
        "onnx: f32, int8. Several as in f16,int8: each format takes the one that it has",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the folders, each with the model's card, and print what is in them."""
    require_folder("--out", arguments.out)
    from nanogpt.export import folder_card, formats
    from nanogpt.weights import folders

    forms = formats.chosen(arguments.to)
    precision = formats.precisions(arguments.precision, forms)
    many = len(forms) > 1
    model, tokenizer = folders.open_folder(arguments.folder)
    if arguments.to == formats.ALL:
        left_out = formats.refusals(forms, model.config, tokenizer)
        for name, reason in left_out.items():
            print_note(f"{name} is left out: {reason}")
        forms = [form for form in forms if form.name not in left_out]
    formats.require_fitting(forms, model.config, tokenizer)
    outs = formats.folders_for(forms, arguments.out, many, [arguments.folder])
    name = folder_card.name_at(arguments.folder)
    for form in forms:
        out, stored = outs[form.name], precision[form.name]
        card = formats.card_for(arguments.folder, out)
        formats.write_model(model, tokenizer, form, out, card, stored, [arguments.folder], name)
        detail = f", {form.name} ({stored}) for {form.title}" if arguments.to != "hf" or arguments.precision else ""
        print(f"{out}: {model.num_parameters():,} parameters, context {model.config.block_size}{detail}")
    return 0
