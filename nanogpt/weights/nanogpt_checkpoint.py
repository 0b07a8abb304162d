"""nanoGPT's ckpt.pt (github.com/karpathy/nanoGPT): a GPT-2 whose matrices are (out, in) and whose GELU is exact."""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from nanogpt.config import ModelConfig, validate
from nanogpt.faults import UserError
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights.published_names import GPT2_PREFIX, Origin, of_gpt2
from nanogpt.weights.safe_loading import Array, Size, arrays_in, load_pickle, sizes_in
from nanogpt.weights.source import Source

WRAPPERS = re.compile(r"^(_orig_mod\.|module\.)+")  # what torch.compile and DistributedDataParallel put before a name
T = TypeVar("T")  # what is taken of each weight
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

    def _sizes(self, config: ModelConfig) -> dict[str, Size]:
        return self._ours(config, sizes_in(self._content["model"], self.path), Origin.size)

    def _arrays(self, config: ModelConfig) -> dict[str, Array]:
        return self._ours(config, arrays_in(self._content["model"], self.path), Origin.array)

    def _ours(
        self, config: ModelConfig, theirs: dict[str, T], take: Callable[[Origin, dict[str, T]], T]
    ) -> dict[str, T]:
        theirs = {WRAPPERS.sub("", name).removeprefix(GPT2_PREFIX): value for name, value in theirs.items()}
        try:
            return {name: take(origin, theirs) for name, origin in of_gpt2(config, in_first=False)}
        except KeyError as error:
            raise UserError(f"{self.path}: does not fit its model_args: {error} is missing") from error

    def tokenizer(self) -> Tokenizer | None:
        return None

    def files(self) -> list[Path]:
        return [self.path]
