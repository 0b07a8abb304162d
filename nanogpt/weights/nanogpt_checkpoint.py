"""nanoGPT's ckpt.pt (github.com/karpathy/nanoGPT): a GPT-2 whose matrices are (out, in) and whose GELU is exact."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from nanogpt.config import ModelConfig, validate
from nanogpt.data.tokenizer import Tokenizer
from nanogpt.faults import UserError
from nanogpt.weights import published_shapes
from nanogpt.weights.safe_loading import load_pickle, tensors_in
from nanogpt.weights.source import Source

WRAPPERS = re.compile(r"^(_orig_mod\.|module\.)+")  # what torch.compile and DistributedDataParallel put before a name
SHAPE = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias")


class NanoGPTCheckpoint(Source):
    """Such a file. Which text its ids stand for is in another place (meta.pkl of its data)."""

    kind = "nanoGPT checkpoint"

    @cached_property
    def _content(self) -> dict[str, Any]:
        content = load_pickle(self.path)
        if not isinstance(content, dict) or not {"model", "model_args"} <= content.keys():
            raise UserError(f"{self.path}: is not a checkpoint of nanoGPT: it has no 'model' and 'model_args'")
        return content

    def _written_config(self) -> ModelConfig:
        shape = self._content["model_args"]
        missing = [key for key in SHAPE if key not in shape] if isinstance(shape, dict) else list(SHAPE)
        if missing:
            raise UserError(f"{self.path}: is not a checkpoint of nanoGPT: its model_args lack {', '.join(missing)}")
        values = dict(preset="gpt2", activation="gelu_erf", **{key: shape[key] for key in SHAPE})
        return validate(ModelConfig, values, f"{self.path}: model_args")

    def _tensors(self, config: ModelConfig, *, sizes_only: bool) -> dict[str, Tensor]:
        tensors = tensors_in(self._content["model"], self.path)  # loaded already: a pickle is read as a whole
        tensors = {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
        try:
            return published_shapes.from_gpt2(tensors, config, in_first=False)
        except KeyError as error:
            raise UserError(f"{self.path}: does not fit its model_args: {error} is missing") from error

    def tokenizer(self) -> Tokenizer | None:
        return None

    def files(self) -> list[Path]:
        return [self.path]
