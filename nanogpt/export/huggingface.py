"""A trained model as a folder that transformers opens: GPT2LMHeadModel or Qwen3ForCausalLM, with its tokenizer."""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.data.tokenizer import load_tokenizer
from nanogpt.faults import UserError
from nanogpt.model.gpt import GPT
from nanogpt.weights import published_shapes
from nanogpt.weights.hugging_face import CONFIG, WEIGHTS, HuggingFaceFolder


def export(model: GPT, tokenizer, folder: Path | str, card: str | None = None) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    Weights are float32. `card` is the text of README.md. Raises UserError when the model's options fit neither shape.
    """
    published_shapes.settings_of(model.config)  # raises before the tensors are asked for
    return export_tensors(model.config, published_shapes.tensors_of(model), tokenizer, folder, card)


def export_tensors(
    config: ModelConfig, tensors: dict[str, Tensor], tokenizer, folder: Path | str, card: str | None = None
) -> list[Path]:
    """export() of what published_shapes.tensors_of() gave.

    The weights come last, and those of an older export go first: half an export is never taken for a whole one.
    """
    folder, settings = Path(folder), published_shapes.settings_of(config)
    (folder / WEIGHTS).unlink(missing_ok=True)
    tokenizer.save(folder)
    durable.write_json(folder / CONFIG, settings)
    durable.write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.8, "top_k": 50})
    if card is not None:
        durable.write_text(folder / "README.md", card)
    durable.write_bytes(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    return sorted(path for path in folder.iterdir() if path.is_file())


def load(folder: Path | str) -> tuple[GPT, Any]:
    """The model and tokenizer in an exported folder. Raises UserError naming what is missing or does not fit."""
    return load_model(folder), load_tokenizer(Path(folder))


def load_model(folder: Path | str) -> GPT:
    """The model in a folder of a GPT-2 or Qwen3 in Hugging Face's layout, ready to decode (float32).

    Raises UserError naming what is missing or does not fit.
    """
    source = HuggingFaceFolder(Path(folder))
    model, weights = GPT(source.config), source.weights()
    if model.config.tie_weights:
        weights["head.weight"] = weights["token_embedding.weight"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        told = " ".join(str(error).split())  # torch lists the tensors a line each
        raise UserError(f"{source.path / WEIGHTS}: does not fit {CONFIG}: {told}") from error
    return model.eval()
