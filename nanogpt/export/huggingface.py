"""A trained model as a folder that transformers opens: GPT2LMHeadModel or Qwen3ForCausalLM, with its tokenizer."""

from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from nanogpt import durable
from nanogpt.config import ModelConfig
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.model.gpt import GPT
from nanogpt.weights import published_shapes
from nanogpt.weights.hugging_face import CONFIG, WEIGHTS
from nanogpt.weights.trained_folder import TrainedFolder


def export(model: GPT, tokenizer: Tokenizer, folder: Path | str, card: str | None = None) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    Weights are float32. `card` is the text of README.md. Raises UserError when the model's options fit neither shape.
    """
    published_shapes.settings_of(model.config)  # raises before the tensors are asked for
    return export_tensors(model.config, published_shapes.tensors_of(model), tokenizer, folder, card)


def export_tensors(
    config: ModelConfig, tensors: dict[str, Tensor], tokenizer: Tokenizer, folder: Path | str, card: str | None = None
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


def export_trained(model_folder: Path, folder: Path, card: str | None = None) -> list[Path]:
    """export() of the best checkpoint in a training folder; returns the files written to `folder`."""
    source = TrainedFolder(model_folder)
    return export(source.model(), source.tokenizer(), folder, card)
