"""A trained model as a folder that transformers opens: GPT2LMHeadModel or Qwen3ForCausalLM, with its tokenizer."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.data import tokenizer as tokenizers
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.export.front_matter import CARD
from nanogpt.export.target import require_target
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.weights import published_settings, published_shapes
from nanogpt.weights.folders import model_of
from nanogpt.weights.hugging_face import CONFIG, WEIGHTS
from nanogpt.weights.trained_folder import TrainedFolder

GENERATION = "generation_config.json"
FILES = {GENERATION, CARD, CONFIG, WEIGHTS, tokenizers.FILE, tokenizers.HF_FILE}
HOW_TO_GENERATE = {"do_sample": True, "temperature": 0.8, "top_k": 50}  # an export of ours is known by it


def export(
    model: GPT, tokenizer: Tokenizer, folder: Path | str, card: str | None = None, sources: Collection[Path] = ()
) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    Weights are float32. `card` is the text of README.md. `sources` are the folders that the model was read from.
    Raises UserError when the model's options fit neither shape, and for a folder that holds anything but an export.
    """
    published_settings.settings_of(model.config)  # raises before the tensors are asked for
    return export_tensors(model.config, published_shapes.tensors_of(model), tokenizer, folder, card, sources)


def export_tensors(
    config: ModelConfig,
    tensors: dict[str, Tensor],
    tokenizer: Tokenizer,
    folder: Path | str,
    card: str | None = None,
    sources: Collection[Path] = (),
) -> list[Path]:
    """export() of what published_shapes.tensors_of() gave.

    The weights come last, and those of an older export go first: half an export is never taken for a whole one.
    """
    folder, settings = Path(folder), published_settings.settings_of(config)
    require_target(folder, FILES, is_export, sources)
    durable.remove(folder / WEIGHTS)
    durable.write_json(folder / GENERATION, HOW_TO_GENERATE)
    tokenizer.save(folder)
    durable.write_json(folder / CONFIG, settings)
    if card is not None:
        durable.write_text(folder / CARD, card)
    durable.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return sorted(path for path in folder.iterdir() if path.name in FILES)


def export_trained(model_folder: Path, folder: Path, card: str | None = None, *, own: bool = False) -> list[Path]:
    """export() of the best checkpoint in a training folder; returns the files written to `folder`.

    `own`: the place belongs to the caller, so what is there and is no export is set aside under the time of day.
    """
    source = TrainedFolder(model_folder)
    if own:
        try:
            require_target(folder, FILES, is_export, [model_folder])
        except UserError:
            if os.path.lexists(folder):
                durable.set_aside(folder, time.strftime(".%Y%m%d-%H%M%S"))
    return export(model_of(source), source.tokenizer(), folder, card, [model_folder])


def is_export(folder: Path) -> bool:
    """Whether `folder` was written here, whole or cut short."""
    try:
        found: object = durable.read_json(folder / GENERATION)
    except (OSError, ValueError):
        return False
    return found == HOW_TO_GENERATE
