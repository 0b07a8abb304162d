"""A training that begins with the weights of another model: training.init_from names its path.

The source decides the shape. What may differ is dropout and the length of the context: a longer one is position
interpolation (Chen et al. 2023), where as many positions as were learned are spread over the new length.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nanogpt.config import Config, ModelConfig, load_config
from nanogpt.data import tokenizer as tokenizers
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.weights import checkpoint, hugging_face
from nanogpt.weights.hugging_face import HuggingFaceFolder
from nanogpt.weights.nanogpt_checkpoint import NanoGPTCheckpoint
from nanogpt.weights.source import Source

CONFIG, BEST = "config.yaml", "best"
UNDECIDED = {"dropout", "block_size", "position_scale", "zero_init"}  # by a source; the last is for scratch
POSITIONS = "position_embedding.weight"
EFFECTIVE = {"n_kv_head": "kv_heads", "head_dim": "head_width", "ffn_dim": "ffn_width"}  # null stands for a number


class TrainedFolder(Source):
    """What the trainer leaves: a model's folder, of which best/ is taken, or one checkpoint in it."""

    kind = "trained model"

    @cached_property
    def checkpoint(self) -> Path:
        """The folder of the weights. Raises UserError without one."""
        if not (self.path / CONFIG).is_file():
            return self.path
        best = self.path / BEST
        checkpoint.finish_replacement(best)
        if not best.is_dir():
            raise UserError(f"{best}: there is no checkpoint yet; training writes one at its first evaluation")
        return best

    @cached_property
    def model_folder(self) -> Path:
        """The folder with the configuration and the tokenizer. Raises UserError."""
        for folder in (self.path, self.path.parent, self.path.parent.parent):
            if (folder / CONFIG).is_file():
                return folder
        raise UserError(f"{self.path}: a checkpoint without its model's folder: no {CONFIG} next to it or above it")

    @cached_property
    def config(self) -> ModelConfig:
        path = self.checkpoint / checkpoint.WEIGHTS
        try:
            with safe_open(path, framework="pt") as file:
                vocab_size = file.get_slice("token_embedding.weight").get_shape()[0]
        except SafetensorError as error:
            if "not contain tensor" in str(error):
                raise UserError(f"{self.path}: holds adapters alone; take best/ or final/ next to it") from None
            raise CorruptFileError(f"{path}: is not a safetensors file ({error})") from error
        shape = load_config(self.model_folder / CONFIG).model
        trained = checkpoint.read_manifest(self.checkpoint)["facts"].get("context", shape.block_size)
        context = min(shape.block_size, trained)  # beyond the windows that it has seen it knows nothing
        return shape.model_copy(update={"vocab_size": vocab_size, "block_size": context})

    def weights(self) -> dict[str, Tensor]:
        weights = {name: tensor.float() for name, tensor in checkpoint.load(self.checkpoint).weights.items()}
        if POSITIONS in weights:
            weights[POSITIONS] = weights[POSITIONS][: self.config.block_size]
        return weights

    def tokenizer(self) -> Tokenizer | None:
        return tokenizers.load_tokenizer(self.model_folder)

    def files(self) -> list[Path]:
        return [self.checkpoint / checkpoint.WEIGHTS]


def source_at(path: Path | str) -> Source:
    """What lies at `path`. Raises UserError when it is none of what weights can come from."""
    path = Path(path).expanduser()
    if path.is_file():
        return NanoGPTCheckpoint(path)
    if not path.is_dir():
        raise UserError(f"training.init_from: {path}: there is no such file or folder")
    if (path / hugging_face.CONFIG).is_file():
        return HuggingFaceFolder(path)
    if (path / CONFIG).is_file() or (path / checkpoint.MANIFEST).is_file():
        return TrainedFolder(path)
    raise UserError(
        f"training.init_from: {path}: holds no model; expected a model's folder, a Hugging Face folder of a GPT-2 or "
        "Qwen3, or nanoGPT's ckpt.pt"
    )


def digest_of(path: Path | str) -> str:
    """Hexadecimal sha256 of the weights at `path` and their shape. Raises UserError."""
    return source_at(path).digest()


def config_with_shape_of(config: Config, path: Path | str) -> Config:
    """`config` with the shape of the model at `path`; dropout and the length of the context are `config`'s, where set.

    Raises UserError naming each field in which what a person wrote differs from what is there.
    """
    theirs, asked = source_at(path).config, config.model
    written = asked.model_fields_set
    decided = [
        key for key in ModelConfig.model_fields if key in written - UNDECIDED and getattr(asked, key) is not None
    ]
    both = {key: (_effective(theirs, key), _effective(asked, key)) for key in decided}
    differing = [f"model.{key} is {there} there, {here} here" for key, (there, here) in both.items() if there != here]
    if differing:
        raise UserError(
            f"training.init_from: {path} has another architecture: {', '.join(differing)}; "
            "what the configuration leaves out is as it is there"
        )
    block_size = asked.block_size if "block_size" in written else theirs.block_size
    scale = asked.position_scale if "position_scale" in written else _stretched(theirs, block_size)
    chosen = {"dropout": asked.dropout, "block_size": block_size, "position_scale": scale}
    return config.with_changes({"model": theirs.model_dump() | chosen})


def check_vocabulary(path: Path | str, tokenizer: Tokenizer) -> None:
    """Raises UserError when the ids of `tokenizer`, the data's, mean something else to the model at `path`."""
    source = source_at(path)
    theirs = source.tokenizer()
    if theirs is not None and theirs.digest != tokenizer.digest:
        raise UserError(
            f"training.init_from: {source.path} has another tokenizer ({theirs.vocab_size:,} tokens, "
            f"{theirs.digest[:12]}) than the data ({tokenizer.vocab_size:,} tokens, {tokenizer.digest[:12]}); "
            f"tokenise the text with the model's: nanogpt prepare TEXT --tokenizer-of {source.path} --out DIR"
        )
    known = source.config.vocab_size or 0
    if tokenizer.vocab_size > known:
        raise UserError(f"training.init_from: {source.path} has {known:,} tokens, the data {tokenizer.vocab_size:,}")


def put_initial_weights(model: GPT, config: Config) -> str:
    """Fill `model` from training.init_from; returns what was done, for people.

    Raises UserError when a weight is missing or of another shape, CorruptFileError when a checkpoint is not what was
    written.
    """
    source = source_at(config.training.init_from or "")
    weights, learned, block_size = source.weights(), source.config.block_size, model.config.block_size
    if model.position_embedding is not None:
        weights[POSITIONS] = resampled(weights[POSITIONS], block_size)
    checkpoint.put_weights(model, weights, str(source.path))
    context = "" if block_size == learned else f"; context {learned} -> {block_size}"
    stretch = model.config.position_scale / source.config.position_scale
    scaled = "" if stretch == 1 else f", positions divided by {stretch:g} (model.position_scale)"
    return f"weights of {source.path} ({source.kind}){context}{scaled}"


def resampled(table: Tensor, positions: int) -> Tensor:
    """Learned positions (old, n_embd) for a context of another length: (positions, n_embd).

    Longer: position p becomes the point p * old / new between the two nearest learned ones, the last of them held.
    Shorter: the first ones, unchanged.
    """
    old = table.size(0)
    if positions <= old:
        return table[:positions].clone()
    points = torch.arange(positions, dtype=torch.float64) * old / positions
    below = points.floor().long()
    above = (below + 1).clamp(max=old - 1)
    return torch.lerp(table[below], table[above], (points - below).to(table.dtype)[:, None])


def _stretched(theirs: ModelConfig, block_size: int) -> float:
    """position_scale of a context of `block_size`: no position turns further than the longest that was learned."""
    if theirs.position == "learned":
        return 1.0
    return theirs.position_scale * max(1.0, block_size / theirs.block_size)


def _effective(config: ModelConfig, key: str) -> object:
    return getattr(config, EFFECTIVE.get(key, key))
