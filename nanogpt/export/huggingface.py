"""A trained model as a folder that transformers opens: GPT2LMHeadModel or Qwen3ForCausalLM, with its tokenizer.

The tensors of a GPT-2 are named as in the published files, without the "transformer." that save_pretrained() puts
before them: transformers opens both, mlx-lm only these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.export.front_matter import CARD
from nanogpt.export.target import make_way, require_target
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.tokenizer import FILE, HF_FILE, UNKNOWN, Tokenizer
from nanogpt.weights import digests, published_settings, published_shapes
from nanogpt.weights.folders import model_of
from nanogpt.weights.hugging_face import CONFIG, WEIGHTS
from nanogpt.weights.published_names import GPT2_PREFIX
from nanogpt.weights.trained_folder import TrainedFolder

GENERATION = "generation_config.json"
FILES = {GENERATION, CARD, CONFIG, WEIGHTS, digests.FILE, FILE, HF_FILE}
HOW_TO_GENERATE = {"do_sample": True, "temperature": 0.8, "top_k": 50}  # an export of ours is known by it
END, PADDING = "eos_token_id", "pad_token_id"
PRECISIONS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NAMES_OF_INPUTS = ["input_ids", "attention_mask"]


def export(
    model: GPT,
    tokenizer: Tokenizer,
    folder: Path | str,
    card: str | None = None,
    sources: Collection[Path] = (),
    precision: str = "f32",
) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    `precision`: of the weights, one of PRECISIONS. `card` is the text of README.md. `sources` are the folders that the
    model was read from.
    Raises UserError when the model's options fit neither shape, and for a folder that holds anything but an export.
    """
    published_settings.settings_of(model.config)  # raises before the tensors are asked for
    tensors = {name: tensor.to(PRECISIONS[precision]) for name, tensor in published_shapes.tensors_of(model).items()}
    return export_tensors(model.config, tensors, tokenizer, folder, card, sources)


def export_tensors(
    config: ModelConfig,
    tensors: dict[str, Tensor],
    tokenizer: Tokenizer,
    folder: Path | str,
    card: str | None,
    sources: Collection[Path],
) -> list[Path]:
    """export() of what published_shapes.tensors_of() gave.

    The weights come last, and those of an older export go first: half an export is never taken for a whole one.
    """
    folder, settings = Path(folder), published_settings.settings_of(config)
    settings["torch_dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    require_target(folder, FILES, is_export, sources)
    names = {name: name.removeprefix(GPT2_PREFIX) for name in tensors}
    weights = save({names[name]: tensor for name, tensor in tensors.items()}, metadata={"format": "pt"})
    durable.remove_abandoned(folder)
    durable.remove(folder / WEIGHTS)
    write_settings(folder, settings, tokenizer, config.block_size)
    if card is not None:
        durable.write_text(folder / CARD, card)
    digests.write(folder, {WEIGHTS: hashlib.sha256(weights).hexdigest()})
    durable.write_bytes(folder / WEIGHTS, weights)
    return sorted(path for path in folder.iterdir() if path.name in FILES)


def write_settings(folder: Path, settings: dict[str, Any], tokenizer: Tokenizer, block_size: int) -> None:
    """Write what goes with the weights: how to generate, the tokenizer, and `settings` as config.json.

    tokenizer_config.json names the inputs: by default there are token types too, which no GPT takes.
    """
    ids: dict[str, int | None] = {END: tokenizer.end_of_text, PADDING: _padding(tokenizer)}
    durable.write_json(
        folder / GENERATION, HOW_TO_GENERATE | {key: found for key, found in ids.items() if found is not None}
    )
    content, about = tokenizer.hugging_face()
    about |= {"model_max_length": block_size, "padding_side": "left", "model_input_names": NAMES_OF_INPUTS}
    if ids[PADDING] is not None:
        about["pad_token"] = about.get("eos_token", UNKNOWN)
    durable.write_json(folder / FILE, content)
    durable.write_json(folder / HF_FILE, about)
    durable.write_json(folder / CONFIG, settings | {END: tokenizer.end_of_text})


def _padding(tokenizer: Tokenizer) -> int | None:
    """What fills the shorter texts of a batch: the end of a text, or the token of unknown characters.

    A character's id, such as the usual 0, would hide that character from the model wherever a text has it. None for an
    alphabet that has nothing but characters.
    """
    if isinstance(tokenizer, CharTokenizer):
        return None if tokenizer.closed else tokenizer.unknown
    return tokenizer.end_of_text


def export_trained(model_folder: Path, folder: Path, card: str | None = None, *, own: bool = False) -> list[Path]:
    """export() of the best checkpoint in a training folder; returns the files written to `folder`.

    `own`: the place belongs to the caller, so what is there and is no export is set aside under the time of day.
    """
    source = TrainedFolder(model_folder)
    if own:
        make_way(folder, FILES, is_export, [model_folder])
    return export(model_of(source), source.tokenizer(), folder, card, [model_folder])


def is_export(folder: Path) -> bool:
    """Whether `folder` was written here, whole or cut short."""
    try:
        found: object = durable.read_json(folder / GENERATION)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {key: found[key] for key in found.keys() - {END, PADDING}} == HOW_TO_GENERATE
